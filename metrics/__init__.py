"""Did the edit work?

    image      l2, rmse, psnr, ssim: how far is one picture from another, everywhere or where a mask says
    mask       iou, precision, recall, dilate: is the edit in the right place
    features   kid, fid, precision_recall: do two *sets* of pictures look alike, under any feature extractor
    similarity CLIP-I, CLIP-T, DINO, PRES, DIV, directional CLIP, CLIP score: cosines of embeddings
    trunks     LPIPS and FID's Inception, the networks behind two of these figures

Pictures are (b, 3, y, x) in [-1, 1], masks (b, 1, y, x) with values 0 and 1, features (n, d). Every sum is
taken in float64. Pictures and masks give one figure per picture, (b,); sets give plain floats.

**Two meanings of a mask.** A method's mask says 1 = *edit here*. A metric's mask says 1 = *this pixel
counts*. The unwanted change of an edit is therefore `rmse(before, after, mask=1 - edit_mask)`.

An all-zero mask leaves nothing to measure. It raises, and names the pictures, rather than give a figure that
looks like one: see `metrics.mask.as_mask`.
"""
