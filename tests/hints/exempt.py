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
    ("remove it", "evaluation.baseline_cache:BaselineCache.read"),
    ("remove the file", "evaluation.baseline_cache:BaselineCache.read"),
    ("choose another directory, or free space", "evaluation.baseline_cache:BaselineCache.write"),
    ("give the checkpoint that the bundle was exported from", "evaluation.classifier:evaluate_classifier"),
    ("give `tasks` and no `text`", "evaluation.classifier:read_classifier_tasks"),
    ("give that checkpoint as `baseline`", "evaluation.comparable:_not_the_same"),
    (
        "give that checkpoint as `baseline`, and to compare quantizations the other's report as `against`",
        "evaluation.comparable:require_same_model",
    ),
    ("give conversations, or set check.scored=all", "evaluation.evaluate:_read_text"),
    ("leave one of them out", "evaluation.evaluate:_refuse_repeated"),
    ("lower check.seq_len, or export with a larger export.max_length", "evaluation.evaluate:read_material"),
    ("set check.text or check.tasks", "evaluation.evaluate:read_material"),
    ("lower max_gen_toks, or export with a larger export.max_length", "evaluation.harness:GlmQuantLM._prompt"),
    (
        "if the model runs in float16, a value may have overflowed: export with export.dtype=float32",
        "evaluation.metrics:_require_finite",
    ),
    ("use the checkpoint that the bundle was exported from as the baseline", "evaluation.metrics:score_tokens"),
    (
        "shorten the prompt, lower few_shot.count, or export with a larger export.max_length",
        "evaluation.plan:_Planner._fitted",
    ),
    ("change the words in the task's `labels`, or the choices", "evaluation.plan:_Planner.plan"),
    ("set the task's `prompt`", "evaluation.plan:_Planner.plan"),
    (
        "if the model runs in float16, a value may have overflowed: export with export.dtype=float32",
        "evaluation.plan:label_scores",
    ),
    ("check both models with the same recipe, baseline and data", "evaluation.regression:_not_comparable"),
    ("choose another file", "evaluation.stored_baseline:BaselineWriter._save"),
    (
        "make it again: check with the float checkpoint and `save_baseline`",
        "evaluation.stored_baseline:StoredBaseline._has_no_weights",
    ),
    (
        "give those, or make it again: check with the float checkpoint and `save_baseline`",
        "evaluation.stored_baseline:StoredBaseline.read",
    ),
    ("make it again: check with the float checkpoint and `save_baseline`", "evaluation.stored_baseline:_description"),
    (
        "make it again: check with the float checkpoint and `save_baseline`",
        "evaluation.stored_baseline:_require_fitting",
    ),
    ("give {}", "evaluation.stored_baseline:open_stored_baseline"),
    (
        "make it again: check with the float checkpoint and `save_baseline`",
        "evaluation.stored_baseline:open_stored_baseline",
    ),
    ("choose another file", "evaluation.stored_baseline:require_writable_baseline"),
    ("make it, or choose another file", "evaluation.stored_baseline:require_writable_baseline"),
    ("give some, for example check.tasks=[{data: test.jsonl}]", "pipeline.run:_check_options"),
    ("choose another directory, or give `force` to start anew", "pipeline.run:_finished"),
    ("leave check.text out", "pipeline.run:_read_check_data"),
    ("choose another directory", "pipeline.run:_require_replaceable"),
    ("run check again with this release", "reports.read:_other_schema"),
    ("upgrade glmquant{}, or run check again with this release", "reports.read:_other_schema"),
    ("run check again with this release", "reports.read:report_from_dict"),
    ("upgrade glmquant{}, or run check again with this release", "reports.read:report_from_dict"),
    ("run check again with this release", "reports.read:report_from_json"),
    ("choose another file", "reports.write:write_page"),
    ("encode the text with the bundle's tokenizer", "runtime.classify:OnnxClassifier._check"),
    (
        "if the model runs in float16, a value may have overflowed: export with export.dtype=float32",
        "runtime.classify:OnnxClassifier.logits",
    ),
    ("export a classifier's checkpoint, such as `train_classifier` writes", "runtime.classify:_config"),
    ("export the checkpoint with glmquant", "runtime.classify:_metadata"),
    ("export the model again", "runtime.classify:_metadata"),
    (
        "shorten the prompt, lower max_new_tokens, or export with a larger export.max_length",
        "runtime.generate:_check_room",
    ),
    ("encode the text with the bundle's tokenizer", "runtime.model:OnnxModel._check"),
    ("shorten the text, or export with a larger export.max_length", "runtime.model:OnnxModel._check"),
    ("if memory ran out, use a smaller batch or a shorter text", "runtime.model:OnnxModel._run"),
    ("export with export.dtype=float32", "runtime.sampling:Sampler.choose"),
    (
        "on a machine with an NVIDIA GPU, install onnxruntime-gpu in place of onnxruntime; or use provider cpu",
        "runtime.session:_missing",
    ),
    ("remove it; a bundle's files lie in its own directory", "runtime.session:_refuse_paths"),
    ("export the model again; the files may be damaged or incomplete", "runtime.session:open_session"),
    ("export the checkpoint with glmquant", "runtime.session:read_info"),
    ("export the model again", "runtime.session:read_settings"),
    (
        "`generate`, `classify` and `check` take it; `check` takes the bundle first, and the float checkpoint as `baseline`",
        "store.recognize:",
    ),
    ("`report` shows it, and `check` takes it as `against`", "store.recognize:"),
    ("give the checkpoint it was exported from, and `export` that", "store.recognize:"),
    ("give the path of such a directory; bundles are not downloaded", "store.recognize:without_graph"),
    ("it looks like a checkpoint: `export` makes a bundle of it", "store.recognize:without_graph"),
    ("{}: {}", "store.recognize:without_graph"),
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
