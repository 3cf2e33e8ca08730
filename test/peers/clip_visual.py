# Values for test/cpu/eval/clip-images.test.ts: a small CLIP image tower in PyTorch, float64, weights by
# formula (as in the golden README of part fid). Needs python3-torch; prints what stands in the test.
import torch

MASK = 2**64 - 1


def splitmix(x):
    z = (x + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def uniform(name, *shape):
    h = 0xCBF29CE484222325
    for b in name.encode():
        h = ((h ^ b) * 0x100000001B3) & MASK
    count = 1
    for n in shape:
        count *= n
    values = [(splitmix((h + i) & MASK) >> 11) * 2.0**-53 for i in range(count)]
    return torch.tensor(values, dtype=torch.float64).reshape(shape)


def weight(name, *shape):
    values = (uniform(name, *shape) - 0.5).float().double()
    return values + 1 if ".ln_" in name and name.endswith("weight") else values


SIDE, PATCH, C, HEADS, LAYERS, F, EMBED = 21, 7, 16, 2, 2, 24, 6
GRID = SIDE // PATCH


def norm(x, name):
    affine = (weight(name + ".weight", C), weight(name + ".bias", C))
    return torch.nn.functional.layer_norm(x, (C,), *affine, 1e-5)


def tower(image):
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073], dtype=torch.float64)[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711], dtype=torch.float64)[:, None, None]
    x = ((image / 255 - mean) / std)[None]
    x = torch.nn.functional.conv2d(x, weight("visual.conv1.weight", C, 3, PATCH, PATCH), stride=PATCH)
    x = x.reshape(1, C, GRID * GRID).permute(0, 2, 1)
    token = weight("visual.class_embedding", C).reshape(1, 1, C)
    x = torch.cat([token, x], 1) + weight("visual.positional_embedding", GRID * GRID + 1, C)
    x = norm(x, "visual.ln_pre")
    for i in range(LAYERS):
        at = f"visual.transformer.resblocks.{i}"
        attention = torch.nn.MultiheadAttention(C, HEADS, batch_first=True, dtype=torch.float64)
        attention.load_state_dict({
            "in_proj_weight": weight(at + ".attn.in_proj_weight", 3 * C, C),
            "in_proj_bias": weight(at + ".attn.in_proj_bias", 3 * C),
            "out_proj.weight": weight(at + ".attn.out_proj.weight", C, C),
            "out_proj.bias": weight(at + ".attn.out_proj.bias", C),
        })
        h = norm(x, at + ".ln_1")
        x = x + attention(h, h, h, need_weights=False)[0]
        h = norm(x, at + ".ln_2")
        h = h @ weight(at + ".mlp.c_fc.weight", F, C).T + weight(at + ".mlp.c_fc.bias", F)
        h = h * torch.sigmoid(1.702 * h)
        x = x + h @ weight(at + ".mlp.c_proj.weight", C, F).T + weight(at + ".mlp.c_proj.bias", C)
    return norm(x[:, 0], "visual.ln_post") @ weight("visual.proj", C, EMBED)


with torch.no_grad():
    for name in ("first", "second"):
        image = torch.floor(256 * uniform(name, SIDE, SIDE, 3)).permute(2, 0, 1)
        print([round(v, 9) for v in tower(image)[0].tolist()])
