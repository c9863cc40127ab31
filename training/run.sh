#!/bin/sh
# Make both built-in models again: sh training/run.sh DATA BUILD, where DATA holds cisi, cacm and cranfield in BEIR layout.
set -eu
data=${1:?folder with cisi, cacm and cranfield}
build=${2:-build}
here=$(dirname "$0")

python "$here/texts.py" --build "$build" \
    --corpora "$data/cisi/corpus.jsonl" "$data/cacm/corpus.jsonl" "$data/cranfield/corpus.jsonl"
python "$here/common.py" --build "$build"
python "$here/embed.py" --build "$build" --out "$build/embed" --epochs 6 --skip cisi cacm cranfield

python "$here/rerank.py" --build "$build" --out "$build/rerank-short" --steps 100 --queries 16 --group 8 \
    --longest 44 --length 44
python "$here/rerank.py" --build "$build" --start "$build/rerank-short" --embed "$build/embed" \
    --out "$build/rerank-mixed" --steps 200 --queries 8 --group 6 --hard 2 --longest 110 --length 110 \
    --warmup 30 --seed 14
python "$here/rerank.py" --build "$build" --start "$build/rerank-mixed" --embed "$build/embed" \
    --out "$build/rerank-hard" --steps 270 --queries 8 --group 6 --hard 3 --longest 400 --length 150 \
    --warmup 20 --decay --seed 15
python "$here/rerank.py" --start "$build/rerank-hard" --out "$build/rerank" --half
