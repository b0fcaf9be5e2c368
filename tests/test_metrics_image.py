"""metrics.image and metrics.mask against loops, closed forms and the laws they must obey."""

import doctest
import math

import pytest
import torch
from torch.testing import assert_close

import palimpsest.metrics.image
import palimpsest.metrics.mask
from palimpsest.metrics.image import gaussian_window, l2, psnr, rmse, seam, ssim
from palimpsest.metrics.mask import as_mask, dilate, iou, precision, recall

ALL = [l2, rmse, psnr, ssim]


def pair(b=2, c=3, y=16, x=19, seed=0):
    g = torch.Generator().manual_seed(seed)
    a = torch.rand(b, c, y, x, generator=g) * 2 - 1
    return a, (a + 0.3 * torch.randn(b, c, y, x, generator=g)).clamp(-1, 1)


def left_half(b=2, y=16, x=19, columns=9):
    mask = torch.zeros(b, 1, y, x)
    mask[..., :columns] = 1
    return mask


@pytest.mark.parametrize("module", [palimpsest.metrics.image, palimpsest.metrics.mask])
def test_the_formulas_print_what_they_compute(module):
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0


# ---- l2, rmse, psnr


def test_l2_is_the_norm_over_all_values_in_unit_range_and_its_square_is_the_other_reading():
    x, y = pair()
    squared = [
        sum(((a + 1) / 2 - (b + 1) / 2) ** 2 for a, b in zip(p, q, strict=True))
        for p, q in zip(x.flatten(1).tolist(), y.flatten(1).tolist(), strict=True)
    ]
    assert_close(l2(x, y), torch.tensor(squared, dtype=torch.float64).sqrt())
    assert_close(l2(x, y) ** 2, torch.tensor(squared, dtype=torch.float64))


def test_a_distance_of_32_55_as_the_paper_reports_is_an_rmse_of_0_073_only_as_a_norm():
    n = 256 * 256 * 3
    x = torch.zeros(1, 3, 256, 256, dtype=torch.float64)
    y = x + 2 * 32.55 / n**0.5
    assert_close(l2(x, y).item(), 32.55)
    assert_close(rmse(x, y).item(), 0.0734, atol=5e-5, rtol=0)


def test_l2_is_rmse_times_the_root_of_the_number_of_counted_values():
    x, y = pair()
    mask = left_half()
    assert_close(l2(x, y), rmse(x, y) * math.sqrt(3 * 16 * 19))
    assert_close(l2(x, y, mask), rmse(x, y, mask) * math.sqrt(3 * 16 * 9))


def test_white_on_black_is_an_rmse_of_1_and_0_decibels():
    black, white = torch.full((1, 3, 4, 4), -1.0), torch.ones(1, 3, 4, 4)
    assert rmse(black, white).item() == 1
    assert psnr(black, white).item() == 0


def test_psnr_equals_range_2_over_the_error_in_minus_one_to_one():
    x, y = pair()
    mse = (x.double() - y.double()).square().flatten(1).mean(1)
    assert_close(psnr(x, y), 10 * torch.log10(4 / mse))


def test_psnr_falls_by_20_decibels_when_the_error_grows_tenfold():
    x = torch.zeros(1, 3, 8, 8, dtype=torch.float64)
    assert_close(psnr(x, x + 0.01) - psnr(x, x + 0.1), torch.tensor([20.0], dtype=torch.float64))


def test_identical_pictures_have_no_error_infinite_psnr_and_ssim_1():
    x, _ = pair()
    assert l2(x, x).tolist() == [0, 0] and rmse(x, x).tolist() == [0, 0]
    assert psnr(x, x).tolist() == [math.inf, math.inf]
    assert ssim(x, x).tolist() == [1, 1]


# ---- ssim


def slow_ssim(x, y, mask, size=11, sigma=1.5):
    """The definition, window by window, in plain floats."""
    half = size // 2
    kernel = [
        [math.exp(-((i - half) ** 2 + (j - half) ** 2) / (2 * sigma**2)) for j in range(size)]
        for i in range(size)
    ]
    x, y, mask = ((x + 1) / 2).tolist(), ((y + 1) / 2).tolist(), mask.tolist()
    values = []
    for px, py in zip(x, y, strict=True):
        for r in range(half, len(px) - half):
            for s in range(half, len(px[0]) - half):
                if not mask[r][s]:
                    continue
                at = [
                    (i, j, kernel[i - r + half][j - s + half])
                    for i in range(r - half, r + half + 1)
                    for j in range(s - half, s + half + 1)
                    if mask[i][j]
                ]
                total = sum(w for _, _, w in at)
                mx = sum(w * px[i][j] for i, j, w in at) / total
                my = sum(w * py[i][j] for i, j, w in at) / total
                vx = sum(w * (px[i][j] - mx) ** 2 for i, j, w in at) / total
                vy = sum(w * (py[i][j] - my) ** 2 for i, j, w in at) / total
                cov = sum(w * (px[i][j] - mx) * (py[i][j] - my) for i, j, w in at) / total
                luminance = (2 * mx * my + 1e-4) / (mx**2 + my**2 + 1e-4)
                values.append(luminance * (2 * cov + 9e-4) / (vx + vy + 9e-4))
    return sum(values) / len(values)


@pytest.mark.parametrize("masked", [False, True])
def test_ssim_equals_its_definition_window_by_window(masked):
    x, y = pair(y=14, x=15)
    mask = left_half(y=14, x=15, columns=8) if masked else torch.ones(2, 1, 14, 15)
    want = [slow_ssim(a, b, m[0]) for a, b, m in zip(x.double(), y.double(), mask, strict=True)]
    assert_close(
        ssim(x, y, mask if masked else None), torch.tensor(want, dtype=torch.float64), atol=1e-12, rtol=0
    )


def test_ssim_equals_gaussian_filters_of_scipy():
    ndimage = pytest.importorskip("scipy.ndimage", reason="scipy is the independent filter here")
    x, y = pair(b=1, c=1, y=24, x=28)
    a, b = ((p[0, 0].double().numpy() + 1) / 2 for p in (x, y))

    def mean(image):  # radius 5 = truncate 3.5 at sigma 1.5; then keep valid windows
        return ndimage.gaussian_filter(image, 1.5, truncate=3.5)[5:-5, 5:-5]

    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    index = (2 * ma * mb + 1e-4) * (2 * cov + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))
    assert_close(ssim(x, y).item(), float(index.mean()), atol=1e-12, rtol=0)


def test_ssim_of_flat_pictures_is_the_luminance_factor_in_unit_range():
    a, b = (
        torch.full((1, 3, 12, 12), -0.6, dtype=torch.float64),
        torch.full((1, 3, 12, 12), 0.6, dtype=torch.float64),
    )
    want = (2 * 0.2 * 0.8 + 1e-4) / (0.2**2 + 0.8**2 + 1e-4)  # positive, though one mean is below 0 outside
    assert_close(ssim(a, b).item(), want)


def test_ssim_is_symmetric_and_negative_for_a_negative():
    x, y = pair()
    assert_close(ssim(x, y), ssim(y, x))
    g = torch.Generator().manual_seed(1)
    noise = torch.randn(1, 3, 16, 16, generator=g).clamp(-1, 1)
    assert ssim(noise, -noise).item() < -0.5


def test_the_window_is_a_normalised_gaussian():
    w = gaussian_window()
    assert w.shape == (11, 11)
    assert_close(w.sum().item(), 1.0)
    assert_close((w[5, 5] / w[5, 8]).item(), math.exp(9 / 4.5))


# ---- masks in image metrics


@pytest.mark.parametrize("metric", ALL)
def test_pixels_that_do_not_count_cannot_change_the_figure(metric):
    x, y = pair()
    mask = left_half()
    other = torch.where(mask.bool(), y, -y)
    assert_close(metric(x, y, mask), metric(x, other, mask), rtol=1e-12, atol=1e-12)
    assert (metric(x, y) - metric(x, other)).abs().min() > 1e-3


@pytest.mark.parametrize("metric", ALL)
def test_a_full_mask_equals_no_mask_and_a_mask_of_batch_1_serves_all(metric):
    x, y = pair()
    assert_close(metric(x, y, torch.ones(1, 1, 16, 19)), metric(x, y))
    assert_close(metric(x, y, left_half(b=1)), metric(x, y, left_half(b=2).bool()))


@pytest.mark.parametrize("metric", ALL)
def test_each_picture_gets_its_own_figure_whatever_the_batch(metric):
    x, y = pair(b=3)
    together = metric(x, y)
    assert together.shape == (3,) and together.dtype == torch.float64
    assert_close(together, torch.cat([metric(x[i : i + 1], y[i : i + 1]) for i in range(3)]))
    assert together.unique().numel() == 3


def test_the_unwanted_change_is_zero_when_only_edited_pixels_change():
    x, y = pair()
    edit = left_half()
    after = torch.where(edit.bool(), y, x)
    assert rmse(x, after, 1 - edit).tolist() == [0, 0]
    assert rmse(x, after, edit).min() > 0


@pytest.mark.parametrize("metric", ALL)
def test_an_empty_mask_is_reported_with_its_picture(metric):
    x, y = pair()
    mask = left_half()
    mask[1] = 0
    with pytest.raises(ValueError, match="mask: no pixel counts in picture 1;"):
        metric(x, y, mask)


def test_ssim_reports_a_mask_that_no_window_is_centred_on():
    x, y = pair()
    with pytest.raises(ValueError, match="5 pixels from the border"):
        ssim(x, y, left_half(columns=3))


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize(
    "x, y, mask, message",
    [
        (torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 17), None, "shapes"),
        (torch.zeros(3, 16, 16), torch.zeros(3, 16, 16), None, "shapes"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8),) * 2 + (None, "floats"),
        (torch.full((1, 3, 16, 16), torch.nan), torch.zeros(1, 3, 16, 16), None, "NaN"),
        (torch.zeros(2, 3, 16, 16),) * 2 + (torch.ones(3, 1, 16, 16), "mask: shape"),
        (torch.zeros(2, 3, 16, 16),) * 2 + (torch.ones(2, 1, 8, 8), "mask: shape"),
        (torch.zeros(2, 3, 16, 16),) * 2 + (torch.ones(2, 16, 16), "mask: shape"),
        (torch.zeros(1, 3, 16, 16),) * 2 + (torch.full((1, 1, 16, 16), 0.5), "threshold"),
    ],
)
def test_wrong_input_is_refused_in_one_line(metric, x, y, mask, message):
    with pytest.raises(ValueError, match=message) as error:
        metric(x, y, mask)
    assert "\n" not in str(error.value)


def test_ssim_refuses_pictures_smaller_than_its_window():
    with pytest.raises(ValueError, match="below one window"):
        ssim(torch.zeros(1, 3, 10, 16), torch.zeros(1, 3, 10, 16))


# ---- mask against mask


def boxes(*corners, y=8, x=8):
    mask = torch.zeros(len(corners), 1, y, x)
    for m, (y0, y1, x0, x1) in zip(mask, corners, strict=True):
        m[:, y0:y1, x0:x1] = 1
    return mask


def test_iou_precision_and_recall_of_boxes_are_their_shares():
    mask, truth = boxes((0, 4, 0, 4), (0, 2, 0, 8)), boxes((0, 4, 2, 8), (0, 2, 0, 4))
    assert_close(iou(mask, truth), torch.tensor([8 / 32, 8 / 16], dtype=torch.float64))
    assert_close(precision(mask, truth), torch.tensor([8 / 16, 8 / 16], dtype=torch.float64))
    assert_close(recall(mask, truth), torch.tensor([8 / 24, 1], dtype=torch.float64))


def test_iou_is_symmetric_and_swapping_turns_precision_into_recall():
    a, b = boxes((0, 4, 0, 4)), boxes((1, 6, 2, 8))
    assert iou(a, b) == iou(b, a)
    assert precision(a, b) == recall(b, a) != recall(a, b)


def test_a_mask_that_finds_nothing_scores_0_and_an_empty_truth_is_reported():
    none, some = torch.zeros(1, 1, 8, 8), boxes((0, 4, 0, 4))
    assert iou(none, some).item() == precision(none, some).item() == recall(none, some).item() == 0
    for share in (precision, recall):
        with pytest.raises(ValueError, match="truth: no pixel"):
            share(some, none)
    with pytest.raises(ValueError, match="mask and truth"):
        iou(none, none)


def test_dilation_grows_by_exactly_that_many_pixels_and_its_dual_shrinks_back():
    box = boxes((3, 5, 3, 5))
    assert_close(dilate(box, 2), boxes((1, 7, 1, 7)))
    assert_close(dilate(box, 0), box)
    assert_close(1 - dilate(1 - dilate(box, 2), 2), box)
    assert dilate(box.bool(), 1).dtype == torch.bool
    with pytest.raises(ValueError, match="pixels: -1"):
        dilate(box, -1)


def test_as_mask_names_the_argument_that_is_wrong():
    with pytest.raises(ValueError, match="^mask: shape"):
        iou(torch.ones(2, 1, 8, 8), torch.ones(3, 1, 8, 8))
    with pytest.raises(ValueError, match="^edit: values"):
        as_mask(torch.full((1, 1, 2, 2), 2.0), 1, (2, 2), name="edit")


# ---- seams ----


def test_a_seam_is_a_step_at_the_border_that_truth_lacks():
    truth, mask = torch.zeros(2, 3, 8, 8), torch.zeros(1, 1, 8, 8)
    mask[..., 2:6, 3:7] = 1
    lifted = truth + 0.5 * mask  # a painted part a quarter of the range too bright
    inside = truth.clone()
    inside[..., 3:5, 4:6] = 0.9  # something else inside, but the border is right
    assert seam(truth, truth, mask).tolist() == [0, 0]
    assert seam(lifted, truth, mask).tolist() == pytest.approx([0.25, 0.25])
    assert seam(inside, truth, mask).tolist() == [0, 0]
    assert seam(truth, lifted, mask).tolist() == pytest.approx(
        [0.25, 0.25]
    )  # a step that is missing shows as well


def test_a_border_needs_two_sides():
    x = torch.zeros(1, 3, 4, 4)
    for mask in (torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)):
        with pytest.raises(ValueError, match="mask"):
            seam(x, x, mask)
