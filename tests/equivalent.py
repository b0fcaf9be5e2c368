"""Mutants of `python -m tests.mutants` that compute the same as the source, to rounding, and why: no test can
kill them.

EQUIVALENT[file][line of source, fault] = reason. tests/test_mutants.py sees that each is still there.
"""

TWO_AXES = "of two axes the last is axis 1"
FOUR_AXES = "check_map has seen that x_t has four axes, of which the last two are those from the third on"
CLAMPED = "x_0 was clamped in every step, so that only rounding leaves [-1, 1]"
SQUARE = "where it is read, small was seen to be square"
TO_THE_BIT = "differs only where a computed number equals the limit to the last bit"
EQUIVALENT: dict[str, dict[tuple[str, str], str]] = {
    "fit/ahead.py": {
        (
            "return Generator().manual_seed(int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0]))",
            "1 -> 2",
        ): "the first word of a SeedSequence is the same however many are asked for"
    },
    "fit/muon.py": {
        (
            "tall = g.shape[1] > g.shape[2]",
            "Gt -> GtE",
        ): "a square matrix may be turned or not: the polynomial is odd, and gives the same to rounding"
    },
    "samplers/respacing.py": {
        (
            "stride = (size - 1) / (count - 1) if count > 1 else 1.0",
            "1.0 -> 2.0",
        ): "where one time is asked for, the stride is multiplied by 0 alone"
    },
    "nets/judges/vit.py": {
        (
            "res = tuple(pictures.shape[-2:])",
            "USub left out",
        ): "whatever has not four axes is refused in the next line"
    },
    "methods/alignment.py": {
        (
            "while i and j:",
            "And -> Or",
        ): "both rows begin with the start token alone of its kind, so i and j reach 0 together",
        (
            "match = 1 if source[i - 1] == target[j - 1] else -1",
            "1 -> 2 (4)",
        ): "of a mismatch no score is the best: two gaps cost nothing",
    },
    "methods/captioned.py": {
        (
            "rows = torch.cat([old[:at], old.mean(0) + old.std(0) * drawn, old[at:]])",
            "Add -> Sub",
        ): "what is drawn is as likely with the other sign"
    },
    "methods/glide.py": {
        ("if small.shape[-1] >= side or side % small.shape[-1]:", "1 -> 2"): SQUARE,
        ("if small.shape[-1] >= side or side % small.shape[-1]:", "1 -> 2 (2)"): SQUARE,
        (
            "if small.ndim != 4 or small.shape[1] != 3 or small.shape[-1] != small.shape[-2]:",
            "USub left out (2)",
        ): "where it is read, small has four axes",
        (
            "noise = rng.randn(x_t.shape, x_t) if s > 0 else None",
            "Gt -> GtE",
        ): "at s = 0 ddpm_step gives the mean, whatever the noise, and nothing is drawn after it",
        ("small = picture = path[-1].clamp(-1, 1)", "1 -> 2 (2)"): CLAMPED,
        ("small = picture = path[-1].clamp(-1, 1)", "1 -> 2 (3)"): CLAMPED,
        ("raw = path[-1].clamp(-1, 1)", "1 -> 2 (2)"): CLAMPED,
        ("raw = path[-1].clamp(-1, 1)", "1 -> 2 (3)"): CLAMPED,
    },
    "methods/attention_maps.py": {
        (
            'return rearrange(found * peak.sign(), "n (y x) -> n y x", y=self.res[0])  # unstated: the sign; ours',
            "Mult -> Div",
        ): "a sign is 1 or -1"
    },
    "methods/null_solvers.py": {
        ("loss > 0.95 * best_loss[k]", "Gt -> GtE"): TO_THE_BIT,
        (
            "best_loss, stalled = [math.inf] * len(step), [False] * len(step)",
            "False -> True",
        ): "the first evaluation sets it, before it is read",
    },
    "methods/null_text.py": {
        (
            "active = [k for k, value in zip(active, loss.tolist()) if value >= tolerance]",
            "GtE -> Gt",
        ): TO_THE_BIT
    },
    "methods/text2live.py": {
        ("return part.flip(-1) if u[4] < training.flip else part", "Lt -> LtE"): TO_THE_BIT,
        (
            "mirrored = torch.diag(torch.tensor([-1.0 if u[7] < views.flip else 1.0, 1, 1]))",
            "Lt -> LtE",
        ): TO_THE_BIT,
        (
            "if (words.source - words.target).norm() < 1e-6:",
            "1e-06 -> 2e-06",
        ): "a bound above rounding: embeddings of length 1 are the same, or much farther apart",
    },
    "nets/ddpm.py": {("return torch.cat([phase.sin(), phase.cos()], dim=-1)", "USub left out"): TWO_AXES},
    "nets/judges/clip.py": {("return F.normalize(z, dim=-1) if unit else z", "USub left out"): TWO_AXES},
    "nets/judges/noised_clip.py": {
        ("return F.normalize(z, dim=-1) if unit else z", "USub left out"): TWO_AXES
    },
    "nets/glide.py": {
        (
            "check_tap(tap, self.sites(tuple(x_t.shape[-2:])), tuple(x_t.shape[-2:]))",
            "USub left out",
        ): FOUR_AXES,
        (
            "check_tap(tap, self.sites(tuple(x_t.shape[-2:])), tuple(x_t.shape[-2:]))",
            "USub left out (2)",
        ): FOUR_AXES,
    },
}
