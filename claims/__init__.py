"""Do the papers' claims hold in our world? One file per paper measures them; CLAIMS.md is made of their records.

    python -m claims C1 C3            # measure, draw, rewrite CLAIMS.md
    python -m claims all
    python -m claims                  # rewrite CLAIMS.md only
    python -m claims.bench            # the floors that the shipped models must reach
"""
from __future__ import annotations

from claims.diffedit import DIFFEDIT, judge_blend, judge_bound, judge_parts, judge_reference, judge_threshold
from claims.dreambooth import DREAMBOOTH, judge_count, judge_noun, judge_prior, judge_word
from claims.dreambooth_upsampler import UPSAMPLER, judge_upsampler
from claims.glide import EMPTY, GUIDANCE, RERANK, judge_diversity, judge_empty, judge_people, judge_rerank, judge_scorer
from claims.glide_filtered import WITHOUT, judge_filtered
from claims.glide_inpaint import PARTS_ANEW, SESSION, judge_session, judge_ways
from claims.instruct_pix2pix import BESIDE_SDEDIT, LESS_DATA, SCALES, UNFILTERED, judge_data, judge_faithful, judge_filter, judge_scales
from claims.null_text import LADDER, judge_ablation, judge_null_text, judge_round_trip
from claims.page import Claim
from claims.prompt_to_prompt import LAYOUT, judge_layout
from claims.sdedit import CURVE, MASKS, judge_band, judge_masks, judge_trade

CLAIMS = (
    Claim("C1", "a larger t₀ buys realism (KID falls) with faithfulness (L2 to the guide rises)", "SDEdit",
          "curves of L2 and KID over t₀", CURVE, judge_trade, "sdedit_curve.png"),
    Claim("C2", "t₀ between .3 and .6 is the useful band, and bisection finds the balance one wants", "SDEdit",
          "t₀ ∈ [.3, .6] for any reasonable guide", CURVE, judge_band, "sdedit_curve.png"),
    Claim("C3", "strokes with a mask edit a place and leave the rest", "SDEdit",
          "compositing of faces: L2 21.70, masked LPIPS .03 (Poisson 63.04, .05)", MASKS, judge_masks,
          "sdedit_masks.png"),
    Claim("C4", "people prefer classifier-free guidance to CLIP guidance", "GLIDE",
          "Elo for realism / caption: 82.7 / 110.9 against −73.2 / 29.3", GUIDANCE, judge_people, "glide_guidance.png"),
    Claim("C5", "CLIP guidance wins on CLIP score, as an adversary of the scorer would", "GLIDE", "curves", GUIDANCE, judge_scorer,
          "glide_guidance.png"),
    Claim("C6", "more guidance: more fidelity, less diversity", "GLIDE", "curves of precision, recall, IS and FID", GUIDANCE,
          judge_diversity, "glide_guidance.png"),
    Claim("C7", "fine-tuning with 20 % of the texts dropped adds unconditional sampling at no cost to the conditional",
          "GLIDE", "20 %; no figure", EMPTY, judge_empty),
    Claim("C8", "a model fine-tuned to inpaint beats replacing the known region at each step", "GLIDE", "pictures",
          PARTS_ANEW, judge_ways, "glide_inpaint.png"),
    Claim("C9", "inpainting step by step composes what one prompt cannot", "GLIDE", "pictures", SESSION, judge_session,
          "glide_session.png"),
    Claim("C10", "a model trained on filtered pictures ignores prompts for what was filtered out", "GLIDE", "pictures", WITHOUT,
          judge_filtered, "glide_filtered.png"),
    Claim("C11", "choosing the best of n by CLIP helps", "GLIDE",
          "GLIDE wins over DALL·E on captions 83 % of the time, 71 % once DALL·E is re-ranked", RERANK, judge_rerank, "glide_rerank.png"),
    Claim("C12", "prior preservation stops language drift and restores diversity for a little subject fidelity",
          "DreamBooth", "with / without: PRES .493 / .664, DIV .391 / .371, DINO .684 / .712", DREAMBOOTH, judge_prior,
          "dreambooth_prior.png"),
    Claim("C13", "the right class noun helps; none or a wrong one hurts", "DreamBooth",
          "DINO right / none / wrong: .744 / .303 / .454", DREAMBOOTH, judge_noun, "dreambooth_noun.png"),
    Claim("C14", "three to five pictures are enough", "DreamBooth",
          "DINO over 1…5 pictures of a backpack: .494 .515 .596 .604 .597", DREAMBOOTH, judge_count, "dreambooth_count.png"),
    Claim("C15", "beats Textual Inversion on fidelity to subject and prompt", "DreamBooth",
          "DINO .668 against .569, CLIP-T .305 against .255", DREAMBOOTH, judge_word, "dreambooth_word.png"),
    Claim("C16", "the super-resolution stage must be tuned too, with less noise augmentation", "DreamBooth",
          "pictures", UPSAMPLER, judge_upsampler, "dreambooth_upsampler.png"),
    Claim("C17", "mask and encoding each help, both together most", "DiffEdit",
          "curves: both ablations lie between SDEdit and DiffEdit", DIFFEDIT, judge_parts, "diffedit_tradeoff.png"),
    Claim("C18", "a mask threshold of .5 is best; .25 edits too much, .75 too little", "DiffEdit",
          "curves; CSFID stops near 40 at .75", DIFFEDIT, judge_threshold, "diffedit_masks.png"),
    Claim("C19", "encoding keeps closer to the input than noising does", "DiffEdit",
          "two bounds, plotted for C = 1, K₁ = 3, K₂ = .02", DIFFEDIT, judge_bound, "diffedit_bound.png"),
    Claim("C20", "a text for the input sharpens the mask", "DiffEdit",
          "no gain on COCO, except where under 25 % of the words change: +.25 CLIP score", DIFFEDIT, judge_reference,
          "diffedit_masks.png"),
    Claim("C21", "blending latents level by level beats GLIDE's blend of x̂₀", "DiffEdit",
          "CSFID 23.6 against 26.4 at LPIPS 30.5", DIFFEDIT, judge_blend, "diffedit_tradeoff.png"),
    Claim("C22", "keeps the picture better than SDEdit at an equally strong edit", "InstructPix2Pix", "curves", BESIDE_SDEDIT,
          judge_faithful, "instruct_sdedit.png"),
    Claim("C23", "with less training data only subtle edits remain", "InstructPix2Pix", "curves for 100, 10 and 1 %", LESS_DATA,
          judge_data, "instruct_data.png"),
    Claim("C24", "filtering the training pairs by CLIP keeps edits consistent", "InstructPix2Pix", "curves", UNFILTERED, judge_filter,
          "instruct_filter.png"),
    Claim("C25", "s_T strengthens the edit, s_I keeps the picture", "InstructPix2Pix", "useful: s_T 5–10, s_I 1–1.5", SCALES,
          judge_scales, "instruct_scales.png"),
    Claim("C26", "injected attention keeps the layout when a word is swapped", "Prompt-to-Prompt", "pictures", LAYOUT, judge_layout,
          "layout.png"),
    Claim("C27", "DDIM inversion survives w = 1 and breaks at w = 7.5", "Null-text", "pictures", LADDER, judge_round_trip, "ladder.png"),
    Claim("C28", "null embeddings tuned per step restore the picture to the autoencoder's limit in about 250 updates, "
          "and keep it editable", "Null-text", "curves of PSNR", LADDER, judge_null_text, "null_text_updates.png"),
    Claim("C29", "one null embedding for all steps, a random pivot, or no pivot does worse", "Null-text",
          "curves of PSNR", LADDER, judge_ablation, "null_text_updates.png"),
)
