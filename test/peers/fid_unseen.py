# A folder in the layout of test/goldens/fid with cases of its own, and pictures in odd formats beside what
# PyTorch makes of them: /usr/bin/python3 test/peers/fid_unseen.py DIR [salt]. Needs python3-torch, -scipy,
# -numpy and -pil of Debian 12. Then
#   microdiff verify DIR
#   microdiff eval fid DIR/pictures DIR/pictures.npz --weights formula      (0 within 1e-5; salt empty)
# Inception is written here anew from the paper's tables and torchvision's names, in float64.
import json
import os
import struct
import sys

import numpy as np
import scipy.linalg
import torch
import torch.nn.functional as F
from PIL import Image

torch.set_num_threads(1)
out, salt = sys.argv[1], (sys.argv[2] if len(sys.argv) > 2 else "")
os.makedirs(f"{out}/pictures", exist_ok=True)
rng = np.random.default_rng(20)


def write(path, tensors):
    head, data = {}, b""
    names = {"float32": "F32", "float64": "F64", "uint8": "U8"}
    for name, a in tensors.items():
        raw = np.ascontiguousarray(a).tobytes()
        head[name] = {"dtype": names[a.dtype.name], "shape": list(a.shape)}
        head[name]["data_offsets"] = [len(data), len(data) + len(raw)]
        data += raw
    text = json.dumps(head).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


# Distances ---------------------------------------------------------------------------------------------


def relu(n, d, shift=0.0):
    mix = rng.standard_normal((d, d)) / np.sqrt(d)
    return np.maximum(0, rng.standard_normal((n, d)) @ mix + shift)


def low_rank(n, d, rank):
    return rng.standard_normal((n, rank)) @ rng.standard_normal((rank, d)) + 1


def cases():
    yield "width1", rng.random((9, 1)), rng.random((7, 1)) * 3
    yield "width3", rng.random((40, 3)), rng.random((50, 3)) + 0.5
    yield "width64", relu(300, 64), relu(200, 64, 0.3)
    yield "width192_few", relu(100, 192), relu(260, 192, 0.1)
    yield "width768", relu(90, 768), relu(60, 768, 0.2)
    yield "width2048", relu(70, 2048), relu(50, 2048, 0.1)
    yield "rank5", low_rank(80, 40, 5), low_rank(90, 40, 7)
    yield "rank_full_and_5", relu(200, 40), low_rank(90, 40, 5)
    yield "square", rng.random((48, 48)), rng.random((49, 48))
    yield "far", rng.random((60, 20)) + 1e4, rng.random((60, 20)) * 2 + 1e4
    yield "tiny", rng.random((60, 20)) * 1e-5, rng.random((60, 20)) * 2e-5
    scales = 10.0 ** np.arange(-3, 3, 0.5)
    yield "uneven", rng.random((60, 12)) * scales, rng.random((80, 12)) / scales
    doubled = rng.random((50, 16))
    yield "doubled_columns", np.hstack([doubled, doubled]), relu(70, 32, 1.0)
    same = relu(64, 24)
    yield "permuted", same, same[rng.permutation(64)]
    yield "two_and_many", rng.random((2, 10)), rng.random((400, 10))


def frechet():
    tensors, values = {}, {}
    for name, x1, x2 in cases():
        x1, x2 = x1.astype("float32"), x2.astype("float32")
        tensors[f"{name}.x1"], tensors[f"{name}.x2"] = x1, x2
        centred, sigma, mu = [], [], []
        for k, x in enumerate((x1.astype("float64"), x2.astype("float64"))):
            mu.append(x.mean(0))
            sigma.append(np.atleast_2d(np.cov(x, rowvar=False)))
            centred.append((x - mu[k]) / np.sqrt(len(x) - 1))
            if x.shape[1] <= 192:
                tensors[f"{name}.mu{k + 1}"], tensors[f"{name}.sigma{k + 1}"] = mu[k], sigma[k]
        flat = ((mu[0] - mu[1]) ** 2).sum() + np.trace(sigma[0]) + np.trace(sigma[1])
        root = scipy.linalg.svdvals(centred[0] @ centred[1].T).sum()
        values[name] = {"fid_exact": float(flat - 2 * root)}
        if x1.shape[1] <= 192:
            by_root = scipy.linalg.sqrtm(sigma[0] @ sigma[1], disp=False)[0]
            finite = bool(np.isfinite(by_root).all())
            values[name]["eps_path"] = not finite
            if finite:
                values[name]["fid_pytorch_fid"] = float(flat - 2 * np.trace(by_root).real)
    write(f"{out}/frechet.safetensors", tensors)
    json.dump(values, open(f"{out}/frechet.json", "w"), indent=1)
    mu, sigma = tensors["width64.mu1"], tensors["width64.sigma1"]
    np.savez_compressed(f"{out}/stats_width64.npz", mu=mu, sigma=sigma)
    write(f"{out}/stats_width64.safetensors", {"mu": mu, "sigma": sigma})


# Inception ---------------------------------------------------------------------------------------------


def uniform(name, count):
    h = 0xCBF29CE484222325
    for b in (salt + name).encode():
        h = ((h ^ b) * 0x100000001B3) % 2**64
    with np.errstate(over="ignore"):
        z = np.uint64(h) + np.arange(count, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)).astype("float64") * 2.0**-53


def tensor(values, shape):
    return torch.from_numpy(values.astype("float32").astype("float64")).reshape(shape)


cache = {}


def weights(name, o, i, kh, kw):
    if name not in cache:
        sign = lambda part, n: 2 * uniform(f"{name}.{part}", n) - 1
        n = o * i * kh * kw
        w = tensor(sign("conv.weight", n) * (1.6 * np.sqrt(3 / (i * kh * kw))), (o, i, kh, kw))
        gain = tensor(1 + 0.1 * sign("bn.weight", o), o)
        shift, mean = (tensor(0.1 * sign(part, o), o) for part in ("bn.bias", "bn.running_mean"))
        var = tensor(1 + 0.5 * uniform(f"{name}.bn.running_var", o), o)
        cache[name] = (w, mean, var, gain, shift)
    return cache[name]


def conv(x, name, o, k=1, stride=1, pad=0):
    kh, kw = (k, k) if isinstance(k, int) else k
    w, mean, var, gain, shift = weights(name, o, x.shape[1], kh, kw)
    x = F.conv2d(x, w, stride=stride, padding=pad)
    return F.relu(F.batch_norm(x, mean, var, gain, shift, eps=1e-3))


def chain(x, name, *layers):
    for layer in layers:
        x = conv(x, f"{name}.{layer[0]}", *layer[1:])
    return x


mean_pool = lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
WIDE, TALL = dict(k=(1, 7), pad=(0, 3)), dict(k=(7, 1), pad=(3, 0))


def A(x, n, pooled):
    return torch.cat([
        chain(x, n, ("branch1x1", 64)),
        chain(x, n, ("branch5x5_1", 48), ("branch5x5_2", 64, 5, 1, 2)),
        chain(x, n, ("branch3x3dbl_1", 64), ("branch3x3dbl_2", 96, 3, 1, 1), ("branch3x3dbl_3", 96, 3, 1, 1)),
        chain(mean_pool(x), n, ("branch_pool", pooled)),
    ], 1)


def B(x, n):
    three = chain(x, n, ("branch3x3dbl_1", 64), ("branch3x3dbl_2", 96, 3, 1, 1), ("branch3x3dbl_3", 96, 3, 2))
    return torch.cat([chain(x, n, ("branch3x3", 384, 3, 2)), three, F.max_pool2d(x, 3, 2)], 1)


def seven(x, n, names, widths, kinds):
    for name, o, kind in zip(names, widths, kinds):
        x = conv(x, f"{n}.{name}", o, **kind)
    return x


def C(x, n, c):
    long = [f"branch7x7dbl_{i}" for i in range(1, 6)]
    short = [f"branch7x7_{i}" for i in range(1, 4)]
    return torch.cat([
        chain(x, n, ("branch1x1", 192)),
        seven(x, n, short, (c, c, 192), ({}, WIDE, TALL)),
        seven(x, n, long, (c, c, c, c, 192), ({}, TALL, WIDE, TALL, WIDE)),
        chain(mean_pool(x), n, ("branch_pool", 192)),
    ], 1)


def D(x, n):
    names = [f"branch7x7x3_{i}" for i in range(1, 4)]
    y = seven(x, n, names, (192,) * 3, ({}, WIDE, TALL))
    three = chain(x, n, ("branch3x3_1", 192), ("branch3x3_2", 320, 3, 2))
    return torch.cat([three, conv(y, f"{n}.branch7x7x3_4", 192, 3, 2), F.max_pool2d(x, 3, 2)], 1)


def E(x, n, pool):
    fork = lambda y, name: [
        conv(y, f"{n}.{name}a", 384, (1, 3), 1, (0, 1)), conv(y, f"{n}.{name}b", 384, (3, 1), 1, (1, 0)),
    ]
    one = chain(x, n, ("branch3x3_1", 384))
    two = chain(x, n, ("branch3x3dbl_1", 448), ("branch3x3dbl_2", 384, 3, 1, 1))
    last = chain(pool(x), n, ("branch_pool", 192))
    parts = [chain(x, n, ("branch1x1", 320)), *fork(one, "branch3x3_2"), *fork(two, "branch3x3dbl_3"), last]
    return torch.cat(parts, 1)


def inception(image):
    x = torch.from_numpy(image.astype("float64") / 255)[None]
    x = F.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False)
    resized, means = x[0], {}
    x = 2 * x - 1
    x = conv(x, "Conv2d_1a_3x3", 32, 3, 2)
    x = conv(conv(x, "Conv2d_2a_3x3", 32, 3), "Conv2d_2b_3x3", 64, 3, 1, 1)
    x = conv(conv(F.max_pool2d(x, 3, 2), "Conv2d_3b_1x1", 80), "Conv2d_4a_3x3", 192, 3)
    x = F.max_pool2d(x, 3, 2)
    for n, o in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
        x = means[n] = A(x, n, o)
    x = means["Mixed_6a"] = B(x, "Mixed_6a")
    for n, c in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        x = means[n] = C(x, n, c)
    x = means["Mixed_7a"] = D(x, "Mixed_7a")
    x = means["Mixed_7b"] = E(x, "Mixed_7b", mean_pool)
    x = means["Mixed_7c"] = E(x, "Mixed_7c", lambda y: F.max_pool2d(y, 3, 1, 1))
    return resized, {n: y[0].mean((1, 2)) for n, y in means.items()}, x[0].mean((1, 2))


def smooth(h, w, bands):
    coarse = (rng.random((h // 12 + 2, w // 12 + 2, bands)) * 255).astype("uint8")
    return np.asarray(Image.fromarray(coarse.squeeze()).resize((w, h), Image.BICUBIC))


def network():
    tensors = {}
    sizes = [(8, 8), (1, 300), (331, 97), (299, 298), (640, 481)]
    for k, (h, w) in enumerate(sizes):
        image = smooth(h, w, 3).transpose(2, 0, 1)
        resized, means, features = inception(image)
        tensors[f"image{k}"] = np.ascontiguousarray(image)
        tensors[f"features{k}"] = features.numpy().astype("float32")
        tensors[f"resized{k}.crop"] = resized[:, :24, -24:].numpy().astype("float32")
        for name, values in means.items():
            tensors[f"mean.{name}.{k}"] = values.numpy().astype("float32")
    write(f"{out}/inception.safetensors", tensors)


def pictures():
    for name, mode, bands, size in (
        ("gray.png", "L", 1, (30, 41)), ("rgba.png", "RGBA", 4, (44, 33)), ("small.png", "RGB", 3, (8, 8)),
        ("gray.jpg", "L", 1, (64, 48)), ("large.png", "RGB", 3, (420, 310)),
    ):
        Image.fromarray(smooth(size[1], size[0], bands), mode).save(f"{out}/pictures/{name}")
    Image.fromarray(smooth(40, 50, 3)).convert("P").save(f"{out}/pictures/palette.png")
    Image.fromarray(smooth(40, 50, 3)).convert("LA").save(f"{out}/pictures/la.png")
    Image.fromarray((smooth(40, 50, 1).astype("uint16") * 257)).save(f"{out}/pictures/deep.png")
    Image.fromarray(smooth(40, 50, 3)).convert("1").save(f"{out}/pictures/bits.png")
    Image.fromarray(smooth(48, 64, 4), "CMYK").save(f"{out}/pictures/cmyk.jpg", quality=95)
    features = []
    for name in sorted(os.listdir(f"{out}/pictures")):
        rgb = np.asarray(Image.open(f"{out}/pictures/{name}").convert("RGB"))
        features.append(inception(rgb.transpose(2, 0, 1))[2].numpy())
    features = np.stack(features)
    np.savez(f"{out}/pictures.npz", mu=features.mean(0), sigma=np.cov(features, rowvar=False))
    write(f"{out}/pictures.rows", {"features": features})


json.dump({"part": "fid", "salt": salt}, open(f"{out}/manifest.json", "w"))
frechet()
network()
pictures()
