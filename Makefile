# Every target is self-sufficient on a fresh machine: it first makes .venv and installs what it needs there.
#   make demo                  install, then edit the pictures in figures/emoji and figures/hand by text
#   make test                  install with the test extras, then run the short tests: minutes
#   make test-all              the same, then the long ones: lessons, published sizes, kills at random moments
#   make mutants             put 400 small faults into the sources, one at a time, and see whether the tests notice (N=, SEED=)
#   make site                  make the site in _site/: open _site/index.html; it needs no network
#   make docs-test             make the site, then run every command and every program of README and of the pages
#   make slides                write slides of every lesson into slides/, one HTML file each that needs no network
#   make emoji-data            build the emoji world's pictures into runs/emoji_data: by npm, or PACKAGES=folder with its three packages
#   make emoji-weights         the same, then train the emoji world's models on them
#   make weights-gpu           train what a quarter of an hour of one GPU allows: TIME=690 (seconds), OUT=folder for what comes back
#   make PYTHON=python3.12 …   choose the interpreter that .venv is made from

PYTHON ?= python3
RUN := .venv/bin/python
WORKERS := -n auto --maxprocesses 4 --dist loadgroup
RECIPES := shapes_vae shapes_reader shapes shapes_glide shapes_glide_upsampler shapes_clip shapes_classifier shapes_dino

.PHONY: demo test test-all mutants site docs-test notebooks slides figures emoji-data emoji-weights weights weights-gpu bench claims lint clean

demo: .venv/plain
	$(RUN) -m palimpsest.cli.demo

test: .venv/full
	$(RUN) -m pytest -m "not slow" $(WORKERS)

test-all: test
	$(RUN) -m pytest -m slow $(WORKERS)

mutants: .venv/full
	$(RUN) -m tests.mutants $(if $(N),--n $(N)) $(if $(SEED),--seed $(SEED))

site: .venv/site
	$(RUN) -m palimpsest.docs.site

docs-test: .venv/full site
	$(RUN) -m tests.pages

notebooks: .venv/full
	$(RUN) -m palimpsest.notebooks.render

slides: .venv/full
	$(RUN) -m palimpsest.notebooks.slides

figures: .venv/plain
	$(RUN) -m palimpsest.claims.draw.make
	$(RUN) -m palimpsest.claims.draw.examples
	$(RUN) -m palimpsest.claims.draw.knobs

emoji-data: .venv/plain
	$(RUN) -m palimpsest.worlds.emoji_data $(if $(PACKAGES),--packages $(PACKAGES))

weights: .venv/plain
	for recipe in $(RECIPES); do $(RUN) -m palimpsest.training.$$recipe || exit $$?; done
	$(RUN) -m palimpsest.training.shapes --name shapes-companion --width 24 --heads 1 --steps 2175 --batch 32 --optimiser muon --lr 1.2e-3 --warmup 300 --scenes 12000 --two .45 --hard 3 --seed 20
	$(RUN) -m palimpsest.training.smaller shapes-companion
	$(RUN) -m palimpsest.training.shapes_clip --noised 1 --name shapes-clip-noised
	$(RUN) -m palimpsest.training.shapes_glide --name shapes-glide --empty .2 --lr 6e-4 --init weights/shapes-glide-conditional.safetensors
	$(RUN) -m palimpsest.training.shapes_glide --name shapes-glide-filtered --without star
	$(RUN) -m palimpsest.training.shapes_glide --name shapes-glide-filtered --without star --empty .2 --lr 6e-4 --state runs/shapes-glide-filtered-empty --init weights/shapes-glide-filtered.safetensors
	$(RUN) -m palimpsest.training.shapes_glide_inpaint
	$(RUN) -m palimpsest.training.shapes_glide_upsampler --name shapes-glide-upsampler-inpaint --inpainting 1 --init weights/shapes-glide-upsampler.safetensors
	$(RUN) -m palimpsest.training.shapes_instruct
	$(RUN) -m palimpsest.training.shapes_language
	$(RUN) -m palimpsest.training.shapes_language --sample 4000
	$(RUN) -m palimpsest.training.pairs
	$(RUN) -m palimpsest.training.shapes_instruct --name shapes-instruct-generated --pairs runs/pairs

weights-gpu: .venv/plain
	$(RUN) -m palimpsest.training.gpu $(if $(TIME),--seconds $(TIME)) $(if $(OUT),--out $(OUT))

emoji-weights: emoji-data
	for recipe in emoji_vae emoji emoji_clip emoji_pairs; do $(RUN) -m palimpsest.training.$$recipe || exit $$?; done
	$(RUN) -m palimpsest.training.emoji_instruct --pairs runs/emoji_pairs

bench: .venv/full
	$(RUN) -m palimpsest.claims.recommend
	$(RUN) -m palimpsest.claims.bench
	$(RUN) -m palimpsest.claims.scoreboard
	$(RUN) -m palimpsest.claims.draw.make w_curve.png scoreboard.png scoreboard_gallery.png
	$(RUN) -m palimpsest.claims.speed
	$(RUN) -m palimpsest.studio.bench

claims: .venv/plain
	$(RUN) -m palimpsest.claims all

lint: .venv/full
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m codespell_lib .

clean:
	rm -rf .venv _site build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# -- the environment: one interpreter, two stamps ---------------------------------------------------------------------

.venv/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "palimpsest: $(PYTHON) not found; install Python 3.10 or later, or run make PYTHON=…" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "palimpsest: $$($(PYTHON) --version 2>&1) is too old; run make PYTHON=… with Python 3.10 or later" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "palimpsest: this Python cannot make virtual environments; install its venv module (on Debian: python3-venv)" >&2; exit 2; }
	@rm -rf .venv && $(PYTHON) -m venv .venv || { rm -rf .venv; echo "palimpsest: could not make .venv here; is the folder writable?" >&2; exit 2; }

.venv/plain: setup.cfg pyproject.toml | .venv/bin/python
	$(RUN) -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

.venv/full: setup.cfg pyproject.toml | .venv/bin/python
	$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@ .venv/plain

.venv/site: setup.cfg pyproject.toml | .venv/bin/python
	$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@ .venv/plain
