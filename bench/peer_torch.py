"""MicroDiT in PyTorch, for one purpose: the same training step on the same GPU, to measure beside ours.

Two peers, both written for this bench after the paper (arXiv 2407.15811) and src/model:
  reference   the algorithm as published: experts through one-hot tensors and einsums, the published
              micro-batches (256, 64, 32, 16), autocast to bf16 over fp32 weights, no compilation
  fast        as fast as it goes in PyTorch: experts by index, batched products and index_add, torch.compile,
              fused AdamW, the largest micro-batch that fits
Both use scaled_dot_product_attention. An update is 256 images: inputs come from pinned host memory, then
noise, levels and mask on the GPU, forward, backward, clip, AdamW, EMA. The median of --updates after
--warmup. Prints one JSON on stdout, progress on stderr.

  python3 bench/peer_torch.py --peer fast --stage 256/0.75
"""

import argparse
import json
import math
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

XL_PARAMETERS = 1_165_442_320
H100_BF16_FLOPS = 989e12

# Stage: input size, mask ratio, the reference's micro-batch, GFLOP of training an image (what three forward
# passes need, so that peers get no credit for waste).
STAGES = {
    "256/0.75": (32, 0.75, 256, 282.1),
    "256/0": (32, 0.0, 64, 714.2),
    "512/0.75": (64, 0.75, 32, 1069.0),
    "512/0": (64, 0.0, 16, 3003.0),
}
IMAGES = 256
CAPTION_LENGTH = 77
P_MEAN, P_STD, SIGMA_DATA = -0.6, 1.2, 0.9
LEARNING_RATE, BETAS, EPS, WEIGHT_DECAY, CLIP = 2.4e-4, (0.9, 0.999), 1e-8, 0.1, 0.25
EMA_DECAY = 0.9999


def spread(low, high, depth):
    """Layer-wise scaling: a value for each block, from low to high."""
    return [low + (high - low) * i / (depth - 1) for i in range(depth)]


XL = {
    "input_size": 32, "patch_size": 2, "in_channels": 4, "dim": 1024, "depth": 28, "head_dim": 64,
    "multiple_of": 256, "caption_channels": 1024, "pos_interp_scale": 1.0, "norm_eps": 1e-6,
    "qkv_multipliers": spread(0.5, 1.0, 28), "ffn_multipliers": spread(0.5, 4.0, 28),
    "patch_mixer_depth": 6, "patch_mixer_dim": 768, "patch_mixer_qkv_ratio": 1.0,
    "patch_mixer_mlp_ratio": 4.0, "use_bias": False, "num_experts": 8, "expert_capacity": 2.0,
    "experts_every_n": 2,
}
# For a check of this file on a machine without a GPU.
SMALL = {
    **XL, "dim": 64, "depth": 4, "head_dim": 16, "multiple_of": 16, "caption_channels": 32,
    "qkv_multipliers": spread(0.5, 1.0, 4), "ffn_multipliers": spread(0.5, 4.0, 4),
    "patch_mixer_depth": 2, "patch_mixer_dim": 48,
}


# The model ----------------------------------------------------------------------------------------------


def round_up(n, multiple):
    return math.ceil(n / multiple) * multiple


def qkv_width(dim, ratio, head_dim):
    return dim if ratio == 1 else round_up(int(dim * ratio), 2 * head_dim)


class Norm(nn.Module):
    """LayerNorm over the last axis with a weight and no bias."""

    def __init__(self, dim, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x):
        return F.layer_norm(x, x.shape[-1:], self.weight, None, self.eps)


def attend(q, k, v, head_dim, eps):
    """q [N, T, H D], k and v [N, S, H D]: q and k are normalised over their whole width before the split."""

    def heads(x):
        return x.unflatten(-1, (-1, head_dim)).transpose(1, 2)

    q = F.layer_norm(q, q.shape[-1:], None, None, eps).to(v.dtype)
    k = F.layer_norm(k, k.shape[-1:], None, None, eps).to(v.dtype)
    return F.scaled_dot_product_attention(heads(q), heads(k), heads(v)).transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    def __init__(self, dim, width, head_dim, eps, bias):
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * width, bias=bias)
        self.proj = nn.Linear(width, dim, bias=bias)
        self.head_dim, self.eps = head_dim, eps

    def forward(self, x):
        return self.proj(attend(*self.qkv(x).chunk(3, -1), self.head_dim, self.eps))


class CrossAttention(nn.Module):
    def __init__(self, dim, head_dim, eps, bias):
        super().__init__()
        self.q_linear = nn.Linear(dim, dim, bias=bias)
        self.kv_linear = nn.Linear(dim, 2 * dim, bias=bias)
        self.proj = nn.Linear(dim, dim, bias=bias)
        self.head_dim, self.eps = head_dim, eps

    def forward(self, x, y):
        return self.proj(attend(self.q_linear(x), *self.kv_linear(y).chunk(2, -1), self.head_dim, self.eps))


class SwiGlu(nn.Module):
    def __init__(self, dim, width, multiple_of, bias):
        super().__init__()
        hidden = round_up(int(2 * width / 3), multiple_of)
        self.w1 = nn.Linear(dim, hidden, bias=bias)
        self.w2 = nn.Linear(dim, hidden, bias=bias)
        self.w3 = nn.Linear(hidden, dim, bias=bias)

    def forward(self, x):
        return self.w3(F.silu(self.w1(x)) * self.w2(x))


class Experts(nn.Module):
    """Expert choice: each expert takes its most probable tokens of an image. Subclasses move the tokens."""

    def __init__(self, dim, width, multiple_of, experts, capacity):
        super().__init__()
        hidden = round_up(width, multiple_of)
        self.w1 = nn.Parameter(torch.empty(experts, dim, hidden))
        self.w2 = nn.Parameter(torch.empty(experts, hidden, dim))
        self.gate = nn.Linear(dim, experts, bias=False)
        self.experts, self.capacity = experts, capacity

    def choose(self, x):
        """x [N, T, C] -> probabilities and token numbers [N, E, K]."""
        taken = int(self.capacity * x.shape[1] / self.experts)
        return torch.topk(self.gate(x).softmax(-1).transpose(1, 2), taken, -1)


class OneHotExperts(Experts):
    """As published: tokens move by products with a one-hot tensor [N, E, K, T]."""

    def forward(self, x):
        weight, index = self.choose(x)
        one_hot = F.one_hot(index, x.shape[1]).float()
        taken = torch.einsum("nekt,ntc->nekc", one_hot, x)
        hidden = F.gelu(torch.einsum("nekc,ecf->nekf", taken, self.w1))
        out = torch.einsum("nekf,efc->nekc", hidden, self.w2) * weight.unsqueeze(-1)
        return torch.einsum("nekt,nekc->ntc", one_hot, out)


class IndexExperts(Experts):
    """The same by index: gather rows to [E, N K, C], two batched products, add the rows back."""

    def forward(self, x):
        N, T, C = x.shape
        weight, index = self.choose(x)
        first = torch.arange(N, device=x.device).view(N, 1, 1) * T
        rows = (index + first).transpose(0, 1).reshape(-1)
        taken = x.reshape(N * T, C).index_select(0, rows).view(self.experts, -1, C)
        out = torch.bmm(F.gelu(torch.bmm(taken, self.w1)), self.w2).view(-1, C)
        scaled = out.float() * weight.transpose(0, 1).reshape(-1, 1)
        sums = torch.zeros(N * T, C, device=x.device, dtype=torch.float32).index_add(0, rows, scaled)
        return sums.view(N, T, C).to(out.dtype)


class Block(nn.Module):
    def __init__(self, c, dim, qkv_ratio, width, experts):
        super().__init__()
        eps, bias = c["norm_eps"], c["use_bias"]
        self.norm1, self.norm2, self.norm3 = (Norm(dim, eps) for _ in range(3))
        self.attn = SelfAttention(dim, qkv_width(dim, qkv_ratio, c["head_dim"]), c["head_dim"], eps, bias)
        self.cross_attn = CrossAttention(dim, c["head_dim"], eps, bias)
        self.mlp = (
            experts(dim, width, c["multiple_of"], c["num_experts"], c["expert_capacity"])
            if experts
            else SwiGlu(dim, width, c["multiple_of"], bias)
        )
        self.adaLN_modulation = nn.Sequential(nn.Identity(), nn.Linear(c["dim"], 6 * dim))

    def forward(self, x, y, c):
        modulation = self.adaLN_modulation(c).unsqueeze(1).chunk(6, -1)
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = modulation
        x = x + gate_msa * self.attn(self.norm1(x) * (1 + scale_msa) + shift_msa)
        x = x + self.cross_attn(self.norm2(x), y)
        return x + gate_mlp * self.mlp(self.norm3(x) * (1 + scale_mlp) + shift_mlp)


class Mlp(nn.Module):
    def __init__(self, width, dim, eps):
        super().__init__()
        self.fc1 = nn.Linear(width, dim)
        self.norm = Norm(dim, eps)
        self.fc2 = nn.Linear(dim, dim)

    def forward(self, x):
        return self.fc2(self.norm(F.gelu(self.fc1(x), approximate="tanh")))


class CaptionBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        dim, eps, bias = c["dim"], c["norm_eps"], c["use_bias"]
        self.norm1, self.norm2 = Norm(dim, eps), Norm(dim, eps)
        self.attn = SelfAttention(dim, dim, c["head_dim"], eps, bias)
        self.mlp = SwiGlu(dim, 4 * dim, c["multiple_of"], bias)

    def forward(self, y):
        y = y + self.attn(self.norm1(y))
        return y + self.mlp(self.norm2(y))


class MicroDit(nn.Module):
    """F of EDM on patches; parameters carry the reference's names and shapes."""

    def __init__(self, c, experts):
        super().__init__()
        dim, mix, eps, depth = c["dim"], c["patch_mixer_dim"], c["norm_eps"], c["depth"]
        self.patch, self.channels = c["patch_size"], c["in_channels"]
        pixels = self.patch**2 * self.channels

        def wrapped(**modules):
            return nn.ModuleDict(modules)

        def every(i):
            return (i + 1) % c["experts_every_n"] == 0

        def width_map(inn, out):
            return nn.Sequential(Norm(inn, eps), nn.Linear(inn, out, bias=c["use_bias"]))

        self.x_embedder = wrapped(proj=nn.Conv2d(self.channels, dim, self.patch, self.patch))
        self.t_embedder = wrapped(
            mlp=nn.Sequential(nn.Linear(512, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim))
        )
        self.y_embedder = wrapped(y_proj=Mlp(c["caption_channels"], dim, eps))
        self.y_emb_preprocess = CaptionBlock(c)
        self.pooled_y_emb_process = Mlp(dim, dim, eps)
        self.patch_mixer_map_xin = width_map(dim, mix)
        self.patch_mixer_map_xout = width_map(mix, dim)
        self.patch_mixer_map_y = width_map(dim, mix)
        mix_width = int(mix * c["patch_mixer_mlp_ratio"])
        self.patch_mixer = nn.ModuleList(
            Block(c, mix, c["patch_mixer_qkv_ratio"], mix_width, experts if i >= 1 and every(i) else None)
            for i in range(c["patch_mixer_depth"])
        )
        self.blocks = nn.ModuleList(
            Block(c, dim, qkv, int(dim * ffn), experts if i < depth - 1 and every(i) else None)
            for i, (qkv, ffn) in enumerate(zip(c["qkv_multipliers"], c["ffn_multipliers"]))
        )
        self.final_layer = wrapped(
            linear=nn.Linear(dim, pixels),
            adaLN_modulation=nn.Sequential(nn.Identity(), nn.Linear(dim, 2 * dim)),
            norm_final=Norm(dim, eps),
        )
        grid = c["input_size"] // self.patch
        self.register_buffer("pos_embed", positions(dim, grid, c["pos_interp_scale"]).unsqueeze(0))
        for name, p in self.named_parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, x, noise_level, y, ids):
        """x [N, C, S, S], noise_level [N], y [N, L, width], ids [N, K] or None -> tokens [N, K, p p C]."""
        t = self.t_embedder["mlp"](sinusoids(noise_level, 512))
        y = self.y_emb_preprocess(self.y_embedder["y_proj"](y))
        c = F.gelu(t + self.pooled_y_emb_process(y.mean(1)), approximate="tanh")
        x = self.x_embedder["proj"](x).flatten(2).transpose(1, 2) + self.pos_embed
        x = self.patch_mixer_map_xin(x)
        y_mixer = self.patch_mixer_map_y(y)
        for block in self.patch_mixer:
            x = block(x, y_mixer, c)
        if ids is not None:
            x = x.gather(1, ids.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
        x = self.patch_mixer_map_xout(x)
        for block in self.blocks:
            x = block(x, y, c)
        shift, scale = self.final_layer["adaLN_modulation"](c).unsqueeze(1).chunk(2, -1)
        return self.final_layer["linear"](self.final_layer["norm_final"](x) * (1 + scale) + shift)


def sinusoids(t, dim):
    rates = torch.exp(-math.log(10000) * torch.arange(dim // 2, device=t.device) / (dim // 2))
    angles = t.float().unsqueeze(1) * rates
    return torch.cat([angles.cos(), angles.sin()], -1)


def positions(dim, grid, scale):
    """[T, C]: sines and cosines of x in the first half of the channels, of y in the second."""
    rates = 1 / 10000 ** (torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    angles = (torch.arange(grid) / scale).double().unsqueeze(1) * rates
    row = torch.cat([angles.sin(), angles.cos()], 1)
    x = row.unsqueeze(0).expand(grid, grid, -1)
    return torch.cat([x, x.transpose(0, 1)], -1).reshape(grid * grid, dim).float()


# Training -----------------------------------------------------------------------------------------------


def to_tokens(image, patch):
    """[N, C, S, S] -> [N, T, p p C], in the order (row, column, channel) of the network's output."""
    N, C, S, _ = image.shape
    grid = image.view(N, C, S // patch, patch, S // patch, patch)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(N, -1, patch * patch * C)


def edm_loss(model, x0, y, mask_ratio):
    """Mean of lambda(sigma) |D(x0 + sigma noise) - x0|^2 over images and kept patches (EDM, Eq. 2, 8)."""
    N, tokens = x0.shape[0], (x0.shape[-1] // model.patch) ** 2
    x0 = x0.float()
    sigma = (torch.randn(N, device=x0.device) * P_STD + P_MEAN).exp()
    keep = int(tokens * (1 - mask_ratio))
    ids = torch.rand(N, tokens, device=x0.device).argsort(1)[:, :keep] if keep < tokens else None
    s = sigma.view(N, 1, 1, 1)
    noisy = x0 + torch.randn_like(x0) * s
    total = s**2 + SIGMA_DATA**2
    out = model(noisy / total.sqrt(), sigma.log() / 4, y, ids).float()
    target, seen = to_tokens(x0, model.patch), to_tokens(noisy, model.patch)
    if ids is not None:
        at = ids.unsqueeze(-1).expand(-1, -1, target.shape[-1])
        target, seen = target.gather(1, at), seen.gather(1, at)
    s, total = s.view(N, 1, 1), total.view(N, 1, 1)
    denoised = SIGMA_DATA**2 / total * seen + s * SIGMA_DATA / total.sqrt() * out
    return (total / (s * SIGMA_DATA) ** 2 * (denoised - target) ** 2).mean()


class Trainer:
    """One peer at one stage: `update` trains on all images once and returns seconds."""

    def __init__(self, peer, stage, config, images, micro_batch, device, compile_mode):
        size, self.mask_ratio, _, _ = STAGES[stage]
        config = {**config, "input_size": size, "pos_interp_scale": size / 32}
        self.micro_batch, self.device = micro_batch, device
        torch.manual_seed(1)
        with torch.device(device):
            self.model = MicroDit(config, OneHotExperts if peer == "reference" else IndexExperts)
        self.parameters = list(self.model.parameters())
        if config["dim"] == XL["dim"]:
            assert sum(p.numel() for p in self.parameters) == XL_PARAMETERS
        self.loss = edm_loss
        if peer == "fast" and compile_mode != "none":
            self.loss = torch.compile(edm_loss, dynamic=False, mode=compile_mode)
        self.optimizer = torch.optim.AdamW(
            self.parameters, LEARNING_RATE, BETAS, EPS, WEIGHT_DECAY,
            **({"fused": True} if peer == "fast" and device == "cuda" else {}),
        )
        self.ema = [p.detach().clone() for p in self.parameters]
        host = torch.Generator().manual_seed(2)
        image, caption = (config["in_channels"], size, size), (CAPTION_LENGTH, config["caption_channels"])
        self.x0, self.y = (torch.randn(images, *of, generator=host).half() for of in (image, caption))
        if device == "cuda":
            self.x0, self.y = self.x0.pin_memory(), self.y.pin_memory()

    def update(self):
        synchronize(self.device)
        started = time.perf_counter()
        images = self.x0.shape[0]
        for at in range(0, images, self.micro_batch):
            x0 = self.x0[at : at + self.micro_batch].to(self.device, non_blocking=True)
            y = self.y[at : at + self.micro_batch].to(self.device, non_blocking=True)
            with torch.autocast(self.device, torch.bfloat16):
                loss = self.loss(self.model, x0, y, self.mask_ratio)
            (loss * (x0.shape[0] / images)).backward()
        nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(self.ema, self.parameters, 1 - EMA_DECAY)
        synchronize(self.device)
        return time.perf_counter() - started, loss.item()


def synchronize(device):
    if device == "cuda":
        torch.cuda.synchronize()


def release():
    """Gives back what the last trainer held, so that the next one finds the memory of an empty card."""
    import gc

    gc.collect()
    torch._dynamo.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def measure(peer, stage, options):
    """The median update of a peer at a stage. The fast peer halves its micro-batch until it fits."""
    _, _, published, gflop = STAGES[stage]
    config = SMALL if options.small else XL
    images = options.images
    micro_batch = options.micro_batch or (published if peer == "reference" else images)
    micro_batch = min(micro_batch, images)
    while True:
        release()
        try:
            trainer = Trainer(peer, stage, config, images, micro_batch, options.device, options.compile)
            warm = [trainer.update() for _ in range(options.warmup)]
            timed = [trainer.update() for _ in range(options.updates)]
            break
        except torch.OutOfMemoryError:
            trainer = None
            say(f"{peer} {stage}: no memory for a micro-batch of {micro_batch}")
            if peer == "reference" or micro_batch == 1:
                return {"peer": peer, "stage": stage, "micro_batch": micro_batch, "error": "out of memory"}
            micro_batch //= 2
    seconds = [s for s, _ in timed]
    median = statistics.median(seconds)
    rate = images / median
    row = {
        "peer": peer,
        "stage": stage,
        "micro_batch": micro_batch,
        "images_per_s": rate,
        "ms_per_step": 1e3 * median,
        "ms_least": 1e3 * min(seconds),
        "ms_most": 1e3 * max(seconds),
        "updates": len(seconds),
        "loss": timed[-1][1],
        "warmup_s": sum(s for s, _ in warm),
    }
    if not options.small:
        row["tflops"] = rate * gflop / 1e3
        row["mfu"] = rate * gflop * 1e9 / H100_BF16_FLOPS
    if options.device == "cuda":
        row["peak_bytes"] = torch.cuda.max_memory_allocated()
    say(f"{peer} {stage}: micro-batch {micro_batch}, {rate:.1f} images/s, {1e3 * median:.1f} ms an update")
    return row


def say(words):
    print(words, file=sys.stderr, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--peer", choices=["reference", "fast"], action="append", help="default: both")
    parser.add_argument("--stage", choices=list(STAGES), action="append", help="default: all four")
    parser.add_argument("--images", type=int, default=IMAGES, help="images of an update")
    parser.add_argument("--micro-batch", type=int, default=0, help="0: the published one, or the largest")
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--compile", default="default", help="fast peer: mode of torch.compile, or none")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--small", action="store_true", help="a tiny model, to check this file")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        say("no CUDA GPU here that PyTorch can use")
        return 3
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    if hasattr(torch, "_dynamo"):
        torch._dynamo.config.cache_size_limit = 64
    rows = [
        measure(peer, stage, options)
        for stage in options.stage or STAGES
        for peer in options.peer or ["reference", "fast"]
    ]
    name = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "python": sys.version.split()[0]}
    print(json.dumps({"device": name, **versions, "images": options.images, "results": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
