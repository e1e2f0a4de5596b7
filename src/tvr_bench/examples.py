"""The examples that the help of each command ends with."""

from __future__ import annotations

BENCH = """examples:
  tvr-bench bench model=tcard                          T-CARD on the rendered data set SignVid
  tvr-bench bench model=tcard ocr.enabled=false        the same without reading scene text
  tvr-bench bench model=tcard data=csv data.file=my.csv        your own videos
  tvr-bench bench model=tcard optim.lr=3e-4 trainer.devices=2  other settings
  tvr-bench bench --config runs/NAME/config.yaml       repeat a run
  tvr-bench bench run.weights=runs/NAME data=csv data.file=my.csv    test its weights elsewhere
  tvr-bench bench model=all                            every model, a summary at the end
"""
SWEEP = """examples:
  tvr-bench sweep --list                           all sweeps
  tvr-bench sweep cret/gees seeds=3                every cell with seeds 0, 1, 2; then the table
  tvr-bench sweep cret/gees seeds=0,4 trainer.epochs=60     other seeds, other settings
  tvr-bench sweep tcard/tau --jobs 2               two runs at a time, each with half the cores
  tvr-bench sweep tcard/tau --dry-run              what would run, and what is done
  tvr-bench sweep tcard/tau --report               table and figure of what is done
"""
OCR = """examples:
  tvr-bench ocr clip.mp4
  tvr-bench ocr *.mp4 --json > windows.json
  tvr-bench ocr clip.mp4 --engine easyocr ocr.windows=6
"""
SCORE = """examples:
  tvr-bench score sims.npy                   row i belongs to column i
  tvr-bench score sims.npy --gold gold.npy   one column per row, or a boolean matrix
  tvr-bench score sims.pt --json             a tensor of torch.save; .npz with one array as well
"""
LEADERBOARD = """examples:
  tvr-bench leaderboard
  tvr-bench leaderboard run.root=/data/runs run.leaderboard=/data
"""
DATA = """examples:
  tvr-bench data check data=msrvtt data.root=/data/MSRVTT     is everything there, can it be read?
  tvr-bench data check data=csv data.file=videos.csv --whole  decode every frame
  tvr-bench data prepare data=msrvtt data.root=/data/MSRVTT model=tcard      fill the caches
  tvr-bench data prepare data=msrvtt data.root=/data/MSRVTT --shard 3/16     a part, for job arrays
  tvr-bench data prepare model=all                            what every model needs
"""
EXPORT = """examples:
  tvr-bench export runs/NAME models/NAME                  weights, settings, tokenizer, model card
  tvr-bench export runs/NAME models/NAME --license apache-2.0
"""
PRETRAIN = """examples:
  tvr-bench pretrain                                      draw, train, and leave them in towers/
  tvr-bench pretrain --to my seed=1 trainer.steps=600     another recipe, another folder
  tvr-bench pretrain trainer.threads=2                    on two cores; the same command goes on
"""
DOCTOR = """examples:
  tvr-bench doctor                                        does the default run work here?
  tvr-bench doctor model=cret track=paper                 does this one?
  tvr-bench doctor data=msrvtt data.root=/data/MSRVTT     is the data set found?
  tvr-bench doctor --json
"""
LIST = """examples:
  tvr-bench list
"""
CONFIG = """examples:
  tvr-bench config                            every key, resolved
  tvr-bench config model=tcard data=csv       with a model's and a data set's own keys
"""
