"""Read multiple-choice questions: JSONL, or CSV in the format of C-Eval (with a header) or MMLU (without)."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from glmquant.data.text import is_jsonl, not_utf8, read_records, require_file, text_field
from glmquant.errors import DataError

LETTERS = "ABCDEFGHIJ"
CSV_COLUMNS = "a header with question, A, B, …, answer; or, without a header, question, choices, answer"
JSONL_FIELDS = '{"question": "…", "choices": ["…", "…"], "answer": "A"}, or the choices in fields A, B, …'


@dataclass(frozen=True)
class Question:
    """A question, its choices in order, the index of the correct one, and its line in the file."""

    question: str
    choices: tuple[str, ...]
    answer: int
    line: int


def read_questions(path: Path, limit: int | None = None) -> tuple[Question, ...]:
    """The first ``limit`` questions of a file: CSV if its name ends in ``.csv``, else JSONL.

    An answer is a letter, or an index from 0.

    Raises:
        DataError: a file that cannot be read, a record without question, choices or a possible answer, or fewer
            questions than ``limit``.
    """
    require_file(path)
    is_csv = path.suffix.lower() == ".csv"
    if not is_csv and not is_jsonl(path):
        raise DataError(f"cannot tell the format of {path.name}", where=path, expected="a name in .jsonl or .csv")
    questions: list[Question] = []
    for question in _from_csv(path) if is_csv else _from_jsonl(path):
        questions.append(question)
        if len(questions) == limit:
            break
    if not questions or (limit is not None and len(questions) < limit):
        wanted = "some" if limit is None else f"{limit}"
        raise DataError(
            f"{len(questions)} questions where {wanted} are wanted", where=path, hint="lower the task's limit"
        )
    return tuple(questions)


def _from_jsonl(path: Path) -> Iterator[Question]:
    for line, record in read_records(path):
        choices = record.get("choices")
        if choices is None:
            choices = [record[letter] for letter in LETTERS if letter in record]
        if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
            raise DataError("the choices are not a list of text", where=f"{path}, line {line}", expected=JSONL_FIELDS)
        yield _question(text_field(record, "question", path, line), choices, record.get("answer"), path, line)


def _from_csv(path: Path) -> Iterator[Question]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            rows = ((reader.line_num, row) for row in reader if row)
            _, first = next(rows, (1, []))
            columns = first if "question" in first else None
            if columns is None and first:
                yield _from_row(first, _plain_columns(first), path, 1)
            for line, row in rows:
                yield _from_row(row, columns or _plain_columns(row), path, line)
    except UnicodeDecodeError:
        raise not_utf8(path) from None
    except csv.Error as error:
        raise DataError(f"not CSV: {error}", where=f"{path}, line {reader.line_num}") from None


def _plain_columns(row: list[str]) -> list[str]:
    """MMLU's columns: question, choices, answer."""
    return ["question", *LETTERS[: max(len(row) - 2, 0)], "answer"]


def _from_row(row: list[str], columns: list[str], path: Path, line: int) -> Question:
    fields = dict(zip(columns, row, strict=False))
    choices = [fields[letter] for letter in LETTERS if fields.get(letter)]
    if len(row) < len(columns) or "question" not in fields or "answer" not in fields:
        raise DataError(f"a row of {len(row)} fields", where=f"{path}, line {line}", expected=CSV_COLUMNS)
    return _question(fields["question"], choices, fields["answer"], path, line)


def _question(question: str, choices: list[str], answer: object, path: Path, line: int) -> Question:
    where = f"{path}, line {line}"
    if not 2 <= len(choices) <= len(LETTERS):
        raise DataError(f"{len(choices)} choices", where=where, expected=f"2 to {len(LETTERS)}; {JSONL_FIELDS}")
    letters = LETTERS[: len(choices)]
    text = str(answer).strip().upper()
    if len(text) == 1 and text in letters:
        return Question(question, tuple(choices), letters.index(text), line)
    if text.isdigit() and int(text) < len(choices):
        return Question(question, tuple(choices), int(text), line)
    raise DataError(f"the answer is {answer!r:.40}", where=where, expected=f"one of {', '.join(letters)}")
