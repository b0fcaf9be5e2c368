"""Recipe of shapes-dino: a small ViT that learnt without a caption to tell one individual of the shapes
world from another.

    python -m palimpsest.training.shapes_dino

DINO, arXiv:2104.14294v2, Sec. 3.1 (nets/judges/distillation.py): a student says of each view of a thing
what its own moving average says of the other. DreamBooth (arXiv:2208.12242v2, Sec. 4.1) measures with
such a net whether a subject was kept: it was not taught to overlook what two subjects of one class differ
by, as a classifier or a CLIP is. Every picture is drawn for its step. Four things are not DINO's:

    two contexts       # ours: the views are not cut from one picture; they are two pictures of one subject
                       (worlds/subjects.py) on grounds of different colours, which share only the subject.
    Sinkhorn-Knopp     # DINOv2, arXiv:2304.07193v2, Sec. 4: in place of the centre, `centring="mean"`
    KoLeo              # DINOv2: the vectors of a batch are driven apart, also two subjects on one ground
    no maps            # ours: the prototypes are compared with the class token itself, which is what is used

Why, from short trials (one CPU run each, 3 layers of width 64, 400 to 800 steps of 64, pictures of 32 x
32 but for the last): `nearest_in_class` was .57 with Sinkhorn-Knopp and `spread` .3, .44 with the centre
and 1; .73 without the maps; .25 with τ_t = .07, of .56 with .04. With `spread` 0 every picture had all
prototypes alike after 200 steps. At 64 x 64, `spread` .1, it was .91 after 300 steps, and `nearest` .52.

Chance finds a picture of the same subject as nearest 3 times in 255; the record tells how often features
do, among all and among those of the same class, and how often plain pixels do. The `entropies` in it tell
whether the net has collapsed: of each picture's prototypes, and of all pictures' together, as shares of
their largest."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.distributed as dist
from einops import rearrange
from torch import Generator, Tensor, nn

from palimpsest.arguments import Count, Fraction, Positive, Rounds, Scale
from palimpsest.fit.loop import fit
from palimpsest.fit.processes import rank_and_world
from palimpsest.nets.judges.dino import DINO, MEAN, STD, dino_view
from palimpsest.nets.judges.distillation import (
    DINOHead,
    balanced,
    dino_loss,
    entropies,
    follow,
    koleo,
    moved_centre,
    sharpened,
    teacher_momentum,
)
from palimpsest.nets.judges.vit import standardise
from palimpsest.training.recipe import RunArguments, command_line, publish, recent, start_from, storage_error
from palimpsest.worlds.scene import COLOURS, SHAPES
from palimpsest.worlds.subjects import Context, Subject, render_subjects, sample_context, sample_subject
from palimpsest.worlds.views import lit, softened

NET = dict(size=64, patch=8, width=128, layers=4, heads=4)
HEAD = dict(width=128, hidden=0, prototypes=1024)
LIT, SOFT = 0.12, 1.0
CENTRINGS = ("sinkhorn", "mean")


class Couple(nn.Module):
    """Student and teacher, and the teacher's centre: all that a run must keep is in here."""

    def __init__(self, dino: DINO, head: DINOHead):
        super().__init__()
        self.student = nn.ModuleDict({"dino": dino, "head": head})
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        prototypes = len(head.prototypes)
        self.register_buffer("centre", torch.zeros(prototypes))
        self.register_buffer(
            "mean", torch.zeros(prototypes)
        )  # of the teacher's scores in the step that is under way


def vectors(half: nn.ModuleDict, views: Tensor) -> Tensor:
    """What the prototypes are compared with: views (v b 3 y x) in [−1, 1] -> (v b d), of length 1."""
    seen = standardise(rearrange(views, "v b c y x -> (v b) c y x"), MEAN, STD)
    return rearrange(half["head"].narrow(half["dino"](seen).cls).float(), "(v b) d -> v b d", v=len(views))


def loss(
    net: Couple, views: Tensor, *, tau: float = 0.04, centring: str = "sinkhorn", spread: float = 0.1
) -> Tensor:
    """Eq. (3) of two views (2 b 3 y x), and `spread` of KoLeo; the mean of the teacher's scores is left
    in `net.mean` for the centre.
    """
    with torch.no_grad():
        teacher = net.teacher["head"].scores(vectors(net.teacher, views)).float()
        net.mean.copy_(teacher.mean(dim=(0, 1)))
        wanted = (
            torch.stack([balanced(seen, tau) for seen in teacher])
            if centring == "sinkhorn"
            else sharpened(teacher, net.centre, tau)
        )
    z = vectors(net.student, views)
    return dino_loss(net.student["head"].scores(z).float(), wanted) + spread * sum(
        koleo(seen) for seen in z
    ) / len(z)


def move(net: Couple, step: int, steps: int, momentum: float) -> None:
    """After the student's update: the centre by Eq. (4), the teacher towards the student."""
    if dist.is_initialized():  # the batch is that of all processes
        dist.all_reduce(net.mean)
        net.mean /= dist.get_world_size()
    net.centre.copy_(moved_centre(net.centre, net.mean))
    follow(net.teacher, net.student, teacher_momentum(step, steps, momentum))


# --------------------------------------------------------------------------- pictures and their views


def anywhere(rng: random.Random, subject: Subject, background: str | None = None) -> Context:
    """A context of the subject: one in ten small, one in ten beside another thing."""
    return sample_context(
        rng,
        background,
        "small" if rng.random() < 0.1 else "large",
        other=rng.random() < 0.1,
        noun=subject.noun,
    )


def couples(n: int, rng: random.Random) -> Tensor:
    """n subjects, each in two contexts whose grounds have different colours: (2 n 3 y x)."""
    subjects = [sample_subject(rng) for _ in range(n)]
    grounds = zip(*(rng.sample(tuple(COLOURS), 2) for _ in subjects))
    return torch.stack(
        [
            render_subjects(
                subjects, [anywhere(rng, s, ground) for s, ground in zip(subjects, colours)], NET["size"]
            )
            for colours in grounds
        ]
    )


def looked_at(pictures: Tensor, generator: Generator) -> Tensor:
    """A little lighter or darker, half of them a little soft: (v n 3 y x) -> the same."""
    return torch.stack([softened(lit(seen, LIT, generator), SOFT, generator) for seen in pictures])


# --------------------------------------------------------------------------- what came of it


def portraits(n: int, each: int, seed: int) -> tuple[list[Subject], Tensor]:
    """n subjects that no step drew, the classes in turn, and `each` pictures of each on grounds of
    different colours: (n·each 3 64 64).
    """
    rng = random.Random(f"portraits {seed}")  # training seeds with whole numbers
    subjects = [sample_subject(rng, SHAPES[k % len(SHAPES)]) for k in range(n)]
    owners = [s for s in subjects for _ in range(each)]
    return subjects, render_subjects(
        owners,
        [sample_context(rng, ground) for _ in subjects for ground in rng.sample(list(COLOURS), each)],
        NET["size"],
    )


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
def judge(net: Couple, n: int, each: int, seed: int, tau: float = 0.04) -> dict[str, float]:
    """Whether the teacher's features tell individuals apart, and whether it has collapsed."""
    dino, device = net.teacher["dino"].eval(), net.centre.device
    subjects, pictures = portraits(n, each, seed)
    views = dino_view(pictures, NET["size"], NET["size"])
    cls = torch.cat([dino(part.to(device)).cls for part in views.split(128)])
    owners = torch.arange(n).repeat_interleave(each)
    nouns = torch.tensor([SHAPES.index(s.noun) for s in subjects]).repeat_interleave(each)
    same = nouns[:, None] == nouns
    own, varied = entropies(sharpened(net.teacher["head"](cls), net.centre, tau))
    return dict(
        n=n * each,
        nearest=nearest(cls.cpu(), owners),
        nearest_chance=(each - 1) / (n * each - 1),
        nearest_in_class=nearest(cls.cpu(), owners, same),
        nearest_in_class_chance=((each - 1) / (same.sum(1) - 1)).double().mean().item(),
        nearest_by_pixels=nearest(pictures.flatten(1), owners),
        nearest_in_class_by_pixels=nearest(pictures.flatten(1), owners, same),
        entropy_each=own,
        entropy_all=varied,
        storage_error=storage_error({"dino": dino}, lambda m: m["dino"](views[:64].to(device)).cls),
    )


@dataclass(frozen=True)
class Arguments(RunArguments):
    """What a run of this recipe can be asked for."""

    recipe = "shapes_dino"
    name: str = "shapes-dino"
    batch: Count = 64
    lr: Positive = 2e-3
    warmup: Rounds = 50
    tau: Positive = 0.04  # temperature of the teacher
    centring: Literal[CENTRINGS] = "sinkhorn"
    spread: Scale = 0.1  # weight of the KoLeo term
    momentum: Fraction = 0.95  # of the teacher, at the beginning
    weight_decay: Fraction = 0.04
    tests: Count = 64  # subjects that the finished net is measured on


def main(given: Arguments) -> None:
    torch.manual_seed(given.seed)  # the initial weights, alike on every rank
    dino = DINO(**NET)
    earlier = start_from(given.init, {"dino": dino})
    net = Couple(dino, DINOHead(**HEAD)).to(given.on)

    def data(step: int, generator: Generator) -> Tensor:
        rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
        return looked_at(couples(given.share, rng), generator)

    # ours: λ from .95 and a constant weight decay, where the paper has .996 and .04 to .4: our runs are a
    # hundredth as long
    fitted = fit(
        lambda m, d, g: loss(m, d, tau=given.tau, centring=given.centring, spread=given.spread),
        net,
        data,
        replace(given.settings(), ema=0.0, weight_decay=given.weight_decay, betas=(0.9, 0.999)),
        given.files(),
        workers=given.workers,
        until=given.until,
        after_step=lambda step: move(net, step, given.steps, given.momentum),
    )
    if rank_and_world()[0] == 0:
        figures = judge(net, given.tests, 4, given.seed, given.tau)
        figures = dict(loss=recent(fitted.losses, 100), **figures)
        modules, config = {"dino": net.teacher["dino"]}, dict(kind="dino", dino=NET)
        print(publish(given, modules, config, fitted, figures, earlier), figures)


if __name__ == "__main__":
    command_line(main, Arguments)
