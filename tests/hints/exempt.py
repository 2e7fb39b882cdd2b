"""Hints that no test follows, and why."""

from typing import Final

Table = tuple[tuple[str, str], ...]

EXEMPT: Final[dict[str, Table]] = {}
"""By reason: words and place."""

NOT_YET: Final[Table] = (
    ("free memory, or lower `memory_limit` where the command takes it", "cli.endings:_from_outside"),
    ("free some space, and run the same command again", "cli.endings:_from_outside"),
    ("look at the connection, and try again", "cli.endings:_from_outside"),
    ("see that it works and has memory, or use the device cpu", "cli.endings:_from_outside"),
    ("set PYTHONUTF8=1 and give the text in UTF-8, or put it into a file", "cli.streams:as_typed"),
    ("lower max_gen_toks, or export with a larger export.max_length", "evaluation.harness:GlmQuantLM._prompt"),
    ("give some, for example check.tasks=[{data: test.jsonl}]", "pipeline.run:_check_options"),
    ("choose another directory, or give `force` to start anew", "pipeline.run:_finished"),
    ("leave check.text out", "pipeline.run:_read_check_data"),
    ("choose another directory", "pipeline.run:_require_replaceable"),
    ("if memory ran out, use a smaller batch or a shorter text", "runtime.model:OnnxModel._run"),
    ("did you mean {}? It has a config.json", "store.recognize:without_weights"),
    ("encode the text with this checkpoint's own tokenizer", "streaming.activations:_within"),
    (
        "check the checkpoint: its weights are damaged or belong to another architecture",
        "streaming.forward:require_finite",
    ),
    ("give at least {}GB", "streaming.resources:Resources.store"),
    ("remove the directory it lies in, and start again", "streaming.state:SavedStates.load"),
    ("name some in train.data", "train.directory:examples_to_train_on"),
    ("train with a smaller train.learning_rate", "train.loop:Trainer._epoch"),
    ("add examples of it, or drop it", "train.split:require_of_each_label"),
    ("train the original, then quantize what comes out", "train.train:_refuse_impossible"),
    ("use train.mode=head, which holds one block at a time", "train.train:_refuse_impossible"),
    ("train with a smaller train.learning_rate", "train.weights:stored"),
)
"""A test could follow these; write it, and remove the line."""
