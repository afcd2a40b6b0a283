"""The files that a run grows on are the given ones again, with ids of their own."""

from benchmarks.growth import make_files
from datasets import SPLITS, read_examples
from options.task_table import built_in_tasks

TASKS = built_in_tasks()


def test_rows_are_repeated_in_the_shares_of_the_files_with_new_ids(few_rows, tmp_path):
    num_rows = make_files(few_rows, tmp_path / "data", 150)
    assert num_rows == 150
    for task in TASKS.values():
        given = read_examples(few_rows / f"{task.stem}-train.csv", task)
        made = read_examples(tmp_path / "data" / f"{task.stem}-train.csv", task, True)
        assert len(given) == 20 and len(made) == 50
        assert len({example.id for example in made}) == 50
        for number, example in enumerate(made):
            original = given[number % 20]
            assert (example.texts, example.label) == (original.texts, original.label)
        for end in set(SPLITS.values()) - {"train"}:
            name = f"{task.stem}-{end}.csv"
            assert (tmp_path / "data" / name).read_bytes() == (few_rows / name).read_bytes()


def test_fewer_rows_are_the_first_ones_of_each_file(few_rows, tmp_path):
    assert make_files(few_rows, tmp_path / "data", 1) == 3  # one of each task at least
    for task in TASKS.values():
        path = f"{task.stem}-train.csv"
        [made] = read_examples(tmp_path / "data" / path, task)
        first, *_ = read_examples(few_rows / path, task)
        assert (made.texts, made.label) == (first.texts, first.label)


def test_quoted_cells_keep_their_text(few_rows, tmp_path):
    source = tmp_path / "given"
    source.mkdir()
    for path in few_rows.iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    task, text = TASKS["sst"], 'a ""quoted"" word\tand a tab'
    (source / f"{task.stem}-train.csv").write_text(f'sentiment\tid\tsentence\n3\t1\t"{text}"\n')
    make_files(source, tmp_path / "data", 82)
    made = read_examples(tmp_path / "data" / f"{task.stem}-train.csv", task)
    assert {example.texts for example in made} == {('a "quoted" word\tand a tab',)}
    assert len({example.id for example in made}) == len(made) == 2
