"""Read multiple-choice questions: records, or tables in the format of C-Eval (with a header) or MMLU (without)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from glmquant.data.encodings import open_text, undecodable
from glmquant.data.fields import resolved, text_value
from glmquant.data.reading import USUAL, Reading
from glmquant.data.record import Record
from glmquant.data.records import kind_of, read_records, table_separator
from glmquant.data.streams import DataFile, open_data
from glmquant.data.tables import column_name, known, require_row, table_rows
from glmquant.errors import DataError

LETTERS = "ABCDEFGHIJ"
TABLE_COLUMNS = "a header with question, A, B, …, answer; or, without a header, question, choices, answer"
RECORD_FIELDS = '{"question": "…", "choices": ["…", "…"], "answer": "A"}, or the choices in fields A, B, …'
ANSWERS: Final = ("answer", "answerKey")
USUAL_NAMES: Final = ("question", "choices", *ANSWERS)


@dataclass(frozen=True)
class Question:
    """A question, its choices in order, the index of the correct one, and its ``line``, record or row, as ``unit``
    says."""

    question: str
    choices: tuple[str, ...]
    answer: int
    line: int
    unit: str = "line"

    @property
    def place(self) -> str:
        return f"{self.unit} {self.line}"


def read_questions(path: Path, limit: int | None = None, reading: Reading = USUAL) -> tuple[Question, ...]:
    """The first ``limit`` questions of a file of records, or of a table.

    An answer is a letter, or an index from 0. The owner's ``text_field`` and ``label_field`` name the question and the
    answer.

    Raises:
        DataError: a file that cannot be read, a record without question, choices or a possible answer, or fewer
            questions than ``limit``.
    """
    questions: list[Question] = []
    for question in _questions(path, reading):
        questions.append(question)
        if len(questions) == limit:
            break
    if not questions or (limit is not None and len(questions) < limit):
        wanted = "some" if limit is None else f"{limit}"
        raise DataError(
            f"{len(questions)} questions where {wanted} are wanted", where=path, hint="lower the task's limit"
        )
    return tuple(questions)


def _questions(path: Path, reading: Reading) -> Iterator[Question]:
    data = open_data(path)
    kind = kind_of(data, reading)
    if kind == "a table":
        yield from _from_table(data, reading)
    elif kind == "text":
        raise DataError(
            f"{path.name} is plain text, which has no questions", where=path, expected=f"{RECORD_FIELDS}, or a table"
        )
    else:
        for record in read_records(data, reading, kind):
            yield _from_record(record, reading, path)


def _from_record(record: Record, reading: Reading, path: Path) -> Question:
    where = f"{path}, {record.place}"
    fields = _by_usual_names(record.fields)
    asked = resolved(reading.text_field or "question", list(record.fields), where)
    answers = (reading.label_field,) if reading.label_field else ANSWERS
    answer = next((fields[name] for name in answers if name in fields), None)
    choices, answer = _choices(fields, answer)
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise DataError("the choices are not a list of text", where=where, expected=RECORD_FIELDS)
    question = text_value(record, asked, path)
    if question is None:
        raise DataError("a record has no question", where=where, hint="fill it, or drop the record")
    return _question(question, choices, answer, path, record.number, record.unit)


def _by_usual_names(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields, those of a usual name in another case by that too."""
    usual = {name.casefold(): name for name in (*USUAL_NAMES, *LETTERS)}
    return {usual.get(name.strip().casefold(), name): value for name, value in fields.items()} | dict(fields)


def _choices(fields: Mapping[str, Any], answer: Any) -> tuple[Any, Any]:
    """Choices and answer: a list, fields A, B, …, or ARC's texts beside labels of their own, one of them the answer."""
    choices = fields.get("choices")
    if isinstance(choices, dict) and isinstance(choices.get("label"), list):
        labels = choices["label"]
        return choices.get("text"), labels.index(answer) if answer in labels else None
    if choices is None:
        return [fields[letter] for letter in LETTERS if fields.get(letter) is not None], answer
    return choices, answer


def _from_table(data: DataFile, reading: Reading) -> Iterator[Question]:
    path, separator = data.path, table_separator(data, reading)
    asked, answered = reading.text_field or "question", reading.label_field or "answer"
    header: list[str] | None = None
    try:
        with open_text(data, reading, newline="") as file:
            for place, (line, row) in enumerate(table_rows(file, separator, path)):
                if place == 0 and known(row, (asked.casefold(),)):
                    header = [column_name(cell) for cell in row]
                    asked, answered = (_as_there(name, header) for name in (asked, answered))
                    continue
                if header is not None and len(row) > len(header):
                    require_row(row, header, separator, path, line)
                yield _from_row(row, header or _plain_columns(row), (asked, answered), path, line)
    except UnicodeDecodeError:
        raise undecodable(data, reading) from None


def _as_there(name: str, header: Sequence[str]) -> str:
    """The column called ``name`` in any case."""
    return name if name in header else next((each for each in header if each.casefold() == name.casefold()), name)


def _plain_columns(row: list[str]) -> list[str]:
    """MMLU's columns: question, choices, answer."""
    return ["question", *LETTERS[: max(len(row) - 2, 0)], "answer"]


def _from_row(row: list[str], columns: Sequence[str], names: tuple[str, str], path: Path, line: int) -> Question:
    fields = _by_usual_names(dict(zip(columns, row, strict=False)))
    choices = [fields[letter] for letter in LETTERS if fields.get(letter)]
    question, answer = (fields.get(name) for name in names)
    if len(row) < len(columns) or question is None or answer is None:
        raise DataError(f"a row of {len(row)} fields", where=f"{path}, line {line}", expected=TABLE_COLUMNS)
    return _question(question, choices, answer, path, line)


def _question(question: str, choices: list[str], answer: object, path: Path, line: int, unit: str = "line") -> Question:
    where = f"{path}, {unit} {line}"
    if not 2 <= len(choices) <= len(LETTERS):
        raise DataError(f"{len(choices)} choices", where=where, expected=f"2 to {len(LETTERS)}; {RECORD_FIELDS}")
    letters = LETTERS[: len(choices)]
    text = str(answer).strip().upper()
    if len(text) == 1 and text in letters:
        return Question(question, tuple(choices), letters.index(text), line, unit)
    if text.isdigit() and int(text) < len(choices):
        return Question(question, tuple(choices), int(text), line, unit)
    raise DataError(f"the answer is {answer!r:.40}", where=where, expected=f"one of {', '.join(letters)}")
