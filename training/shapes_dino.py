"""Recipe of shapes-dino: a small ViT that learnt without a caption to tell one individual of the shapes world from another.

    python -m training.shapes_dino

DINO, arXiv:2104.14294v2, Sec. 3.1 (nets/distillation.py): a student says of every view of a picture what its own moving average says of a
large one. DreamBooth (arXiv:2208.12242v2, Sec. 4.1) measures with such a net whether a subject was kept: it was not taught to overlook
what two subjects of one class differ by, as a classifier or a CLIP is. Half of the pictures are scenes, half are subjects
(worlds/subjects.py), each drawn for its step. For this purpose the views differ by less than DINO's (worlds/crops.py), and by one thing
more: of `elsewhere` of the subjects half of the views are cut from a picture of the same subject in another context. # ours: so what a
context changes is not seen either; 0 is the paper's, whose views are of one picture.

Chance finds a picture of the same subject as nearest 3 times in 255; the record tells how often features do, among all and among those of
the same class, and how often plain pixels do. The `entropies` in it tell whether the net has collapsed: of each picture's prototypes, and
of all pictures' together, as shares of their largest.
"""
from __future__ import annotations

import copy
import random
from pathlib import Path

import torch
import torch.distributed as dist
from einops import rearrange
from torch import Generator, Tensor, nn

from nets.dino import DINO, MEAN, STD, dino_view
from nets.distillation import (
    DINOHead,
    dino_loss,
    entropies,
    follow,
    moved_centre,
    sharpened,
    teacher_momentum,
    teacher_temperature,
)
from nets.vit import standardise
from training.fit import fit, rank_and_world
from training.recipe import command_line, own_device, publish, start_from, storage_error
from worlds.crops import LARGE, SMALL, cut, lit, softened, windows
from worlds.scene import COLOURS, SHAPES
from worlds.shapes import render, sample_scene
from worlds.subjects import Context, Subject, render_subject, sample_context, sample_subject

NET = dict(size=64, patch=8, width=128, layers=4, heads=4)
HEAD = dict(width=128, hidden=256, narrow=64, prototypes=1024)
SIDE = 32                                        # of a small view; a large one has the size of the net
LIT, SOFT = .12, 1.

Views = tuple[int, Tensor, Tensor]               # the step, large views (2 b 3 y x), small ones (s b 3 y x)


class Couple(nn.Module):
    """Student and teacher, and the teacher's centre: all that a run must keep is in here."""

    def __init__(self, dino: DINO, head: DINOHead):
        super().__init__()
        self.student = nn.ModuleDict({"dino": dino, "head": head})
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        prototypes = len(head.prototypes)
        self.register_buffer("centre", torch.zeros(prototypes))
        self.register_buffer("mean", torch.zeros(prototypes))              # of the teacher's scores in the step that is under way


def score(half: nn.ModuleDict, views: Tensor) -> Tensor:
    """Scores of the prototypes: views (v b 3 y x), standardised -> (v b k)."""
    found = half["head"](half["dino"](rearrange(views, "v b c y x -> (v b) c y x")).cls)
    return rearrange(found, "(v b) k -> v b k", v=len(views))


def loss(net: Couple, views: Views, warm: int) -> Tensor:
    """Eq. (3) of a batch; the mean of the teacher's scores is left in `net.mean` for the centre."""
    step, large, small = views
    with torch.no_grad():
        teacher = score(net.teacher, large).float()
        net.mean.copy_(teacher.mean(dim=(0, 1)))
    said = torch.cat([score(net.student, views) for views in (large, small) if len(views)])
    return dino_loss(said.float(), teacher, net.centre, teacher_temperature(step, warm))


def move(net: Couple, step: int, steps: int, momentum: float) -> None:
    """After the student's update: the centre by Eq. (4), the teacher towards the student."""
    if dist.is_initialized():                                              # the batch is that of all processes
        dist.all_reduce(net.mean)
        net.mean /= dist.get_world_size()
    net.centre.copy_(moved_centre(net.centre, net.mean))
    follow(net.teacher, net.student, teacher_momentum(step, steps, momentum))


# --------------------------------------------------------------------------- pictures and their views

def anywhere(rng: random.Random, subject: Subject, background: str | None = None) -> Context:
    """A context of the subject: one in five small, one in four beside another thing."""
    return sample_context(rng, background, "small" if rng.random() < .2 else "large", other=rng.random() < .25, noun=subject.noun)


def couples(n: int, rng: random.Random, elsewhere: float) -> tuple[Tensor, Tensor]:
    """n pictures and n that show the same: half scenes, half subjects, of which `elsewhere` are drawn twice. (n 3 64 64) each."""
    first = list(render([sample_scene(rng) for _ in range(n - n // 2)], NET["size"]))
    second = list(first)
    for _ in range(n // 2):
        subject = sample_subject(rng)
        drawn = render_subject(subject, [anywhere(rng, subject) for _ in range(1 + (rng.random() < elsewhere))], NET["size"])
        first.append(drawn[0])
        second.append(drawn[-1])
    return torch.stack(first), torch.stack(second)


def looked_at(first: Tensor, second: Tensor, small: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """The views of pictures that show the same, from both in turn, standardised: large (2 b 3 y x) and small (s b 3 y x)."""
    def view(k: int, share: tuple[float, float], size: int) -> Tensor:
        pictures = second if k % 2 else first
        seen = cut(pictures, windows(len(pictures), share, generator), size)
        return standardise(softened(lit(seen, LIT, generator), SOFT, generator), MEAN, STD)
    large = torch.stack([view(k, LARGE, NET["size"]) for k in range(2)])
    little = [view(k, SMALL, SIDE) for k in range(small)]
    return large, torch.stack(little) if little else large[:0]


# --------------------------------------------------------------------------- what came of it

def portraits(n: int, each: int, seed: int) -> tuple[list[Subject], Tensor]:
    """n subjects that no step drew, the classes in turn, and `each` pictures of each on grounds of different colours: (n·each 3 64 64)."""
    rng = random.Random(f"portraits {seed}")                               # training seeds with whole numbers
    subjects = [sample_subject(rng, SHAPES[k % len(SHAPES)]) for k in range(n)]
    return subjects, torch.cat([render_subject(s, [sample_context(rng, ground) for ground in rng.sample(list(COLOURS), each)], NET["size"])
                                for s in subjects])


def nearest(features: Tensor, owners: Tensor, allowed: Tensor | None = None) -> float:
    """How often the nearest other row by cosine, among those that `allowed` (n n) names, has the same owner.

    The k-NN of Sec. 4.1 with k = 1.
    """
    unit = nn.functional.normalize(features.double(), dim=1)
    cosine = unit @ unit.T
    if allowed is not None:
        cosine = cosine.masked_fill(~allowed, -torch.inf)
    return (owners[cosine.fill_diagonal_(-torch.inf).argmax(1)] == owners).double().mean().item()


@torch.no_grad()
def judge(net: Couple, n: int, each: int, seed: int) -> dict[str, float]:
    """Whether the teacher's features tell individuals apart, and whether it has collapsed."""
    dino, device = net.teacher["dino"].eval(), net.centre.device
    subjects, pictures = portraits(n, each, seed)
    views = dino_view(pictures, NET["size"], NET["size"])
    cls = torch.cat([dino(part.to(device)).cls for part in views.split(128)])
    owners = torch.arange(n).repeat_interleave(each)
    nouns = torch.tensor([SHAPES.index(s.noun) for s in subjects]).repeat_interleave(each)
    same = nouns[:, None] == nouns
    own, varied = entropies(sharpened(net.teacher["head"](cls), net.centre, teacher_temperature(1, 0)))
    return dict(n=n * each, nearest=nearest(cls.cpu(), owners), nearest_chance=(each - 1) / (n * each - 1),
                nearest_in_class=nearest(cls.cpu(), owners, same),
                nearest_in_class_chance=((each - 1) / (same.sum(1) - 1)).double().mean().item(),
                nearest_by_pixels=nearest(pictures.flatten(1), owners), entropy_each=own, entropy_all=varied,
                storage_error=storage_error({"dino": dino}, lambda m: m["dino"](views[:64].to(device)).cls))


def main(*, steps: int = 1000, batch: int = 32, lr: float = 1e-3, small: int = 2, elsewhere: float = .5, momentum: float = .99,
         weight_decay: float = .04, warmup: int = 100, precision: str = "float32", tests: int = 64, seed: int = 0, init: str = "",
         name: str = "shapes-dino", state: str = "runs/shapes_dino", device: str = "auto", out: str = "weights") -> None:
    (rank, world), on = rank_and_world(), own_device(device)
    arguments = dict(steps=steps, batch=batch, lr=lr, small=small, elsewhere=elsewhere, momentum=momentum, weight_decay=weight_decay,
                     warmup=warmup, precision=precision, tests=tests, seed=seed, init=Path(init).name)
    torch.manual_seed(seed)                                                # the initial weights, alike on every rank
    dino = DINO(**NET)
    earlier = start_from(init, {"dino": dino})
    net = Couple(dino, DINOHead(**HEAD)).to(on)

    def data(step: int, generator: Generator) -> Views:
        rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
        return step, *(views.to(on) for views in looked_at(*couples(batch // world, rng, elsewhere), small, generator))

    # ours: λ from .99 and a constant weight decay, where the paper has .996 and .04 to .4: our runs are a hundredth as long
    fitted = fit(lambda m, d, g: loss(m, d, round(.3 * steps)), net, data, steps=steps, lr=lr, seed=seed, warmup=warmup, ema=0.,
                 weight_decay=weight_decay, betas=(.9, .999), precision=precision, checkpoint=f"{state}/checkpoint.pt",
                 log=f"{state}/loss.csv", identity=dict(recipe=arguments), save_every=100,
                 after=lambda step: move(net, step, steps, momentum))
    if rank == 0:
        figures = dict(loss=sum(fitted.losses[-100:]) / len(fitted.losses[-100:]), **judge(net, tests, 4, seed))
        print(publish(name, {"dino": net.teacher["dino"]}, dict(kind="dino", dino=NET), out=out, recipe="training.shapes_dino",
                      arguments=arguments, seconds=fitted.seconds, figures=figures, earlier=earlier), figures)


if __name__ == "__main__":
    command_line(main)
