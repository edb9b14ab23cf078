"""Tasks of lm-evaluation-harness give the numbers of its own model for transformers, offline, on local files."""

from __future__ import annotations

import importlib.util
import json
import random
import sys

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from ironloom.data.tokenizer import Tokenizer
from models.twins import from_gpt2, randomize, small

# The harness and what it imports warn of much that is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")
installed = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="the extra eval is not installed")

TASKS = {
    "words_choice": """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "words_rolling": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
""",
    "words_answers": """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: ["e", "xy"], max_gen_toks: 8, do_sample: false}
metric_list: [{metric: exact_match}]
""",
}


@pytest.fixture
def twins(tmp_path):
    """Folders of a decoder of ours and a GPT-2 with its weights."""
    from ironloom.models.decoder import Decoder

    shape = {"n_embd": 32, "n_inner": 48, "n_layer": 2, "n_head": 4, "n_positions": 64}
    theirs = GPT2LMHeadModel(GPT2Config(vocab_size=257, **shape, bos_token_id=None, eos_token_id=256)).eval()
    randomize(theirs)
    with torch.no_grad():  # answers are letters, and depend on much of the text
        table = theirs.transformer.wte.weight
        table[[token for token in range(257) if chr(token) not in "abcdexyz "]] = 0.0
        for block in theirs.transformer.h:
            block.attn.c_attn.weight *= 4.0
    ours = Decoder(small(activation_type="gelu_tanh", max_seq_len=64), 257, eos_token_id=256).eval()
    ours.load_state_dict(from_gpt2(theirs.state_dict()))
    for name, model in (("ours", ours), ("theirs", theirs)):
        model.save_pretrained(tmp_path / name)
        Tokenizer.bytes().save_pretrained(tmp_path / name)
    return tmp_path / "ours", tmp_path / "theirs"


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """A folder of tasks on a local file."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    draw = random.Random(0)

    def words(count):
        return " ".join("".join(draw.choices("abcde", k=draw.randint(1, 5))) for _ in range(count))

    folder = tmp_path / "tasks"
    folder.mkdir()
    records = [
        {"question": words(draw.choice([2, 9, 30])), "choices": [words(1), words(2), words(5)], "answer": draw.randrange(3)}
        for _ in range(12)
    ]
    (folder / "words.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for name, text in TASKS.items():
        source = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder / 'words.jsonl'}}}}}\ntest_split: test\n"
        (folder / f"{name}.yaml").write_text(f"task: {name}\n{source}{text.lstrip()}")
    return folder


@pytest.mark.slow
@installed
def test_tasks_are_those_of_the_harness(ironloom, twins, tasks):
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import AutoTokenizer

    ours, theirs = twins
    reference = HFLM(GPT2LMHeadModel.from_pretrained(theirs), tokenizer=AutoTokenizer.from_pretrained(theirs), device="cpu", batch_size=1)
    expected = simple_evaluate(reference, tasks=list(TASKS), task_manager=TaskManager(include_path=str(tasks)), bootstrap_iters=0)[
        "results"
    ]
    for folder in (ours, theirs):
        result = ironloom("eval", folder, "--tasks", ",".join(TASKS), "--include-path", tasks, "--json", "--device", "cpu")
        assert result.code == 0, result.err
        found = json.loads(result.out)["tasks"]["results"]
        for task, metrics in expected.items():
            for name, value in metrics.items():
                if isinstance(value, float) and "stderr" not in name:
                    assert found[task][name] == pytest.approx(value, rel=1e-5), (task, name)
    table = ironloom("eval", ours, "--tasks", "words_choice", "--include-path", tasks, "--limit", 2).out
    assert "words_choice" in table
    assert "acc_norm" in table


@installed
def test_each_answer_is_that_of_the_harness(twins, tasks):
    """Also those that no metric tells apart: answers cut at strings, batches of prompts of different lengths, long texts."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    from ironloom.evaluation.harness import HarnessModel
    from ironloom.models import Decoder

    ours, theirs = twins
    texts = [json.loads(line)["question"] for line in (tasks / "words.jsonl").read_text().splitlines()]
    reference = HFLM(GPT2LMHeadModel.from_pretrained(theirs), tokenizer=AutoTokenizer.from_pretrained(theirs), device="cpu", batch_size=1)
    mine = HarnessModel(Decoder.from_pretrained(ours), Tokenizer.load(ours), {256}, batch_size=5)

    def requests(kind, *rest):
        return [Instance(kind, {}, (text, *rest), number) for number, text in enumerate(texts)]

    expected = []
    for room, until in ((20, ["ze", "e e"]), (45, ["xyzzy", "zz"])):
        answers = requests("generate_until", {"until": until, "max_gen_toks": room, "do_sample": False})
        expected.extend(reference.generate_until(answers, disable_tqdm=True))
        assert mine.generate_until(answers) == expected[-len(texts) :]
    assert len(set(expected)) > 16
    for name, asked in (("loglikelihood", requests("loglikelihood", " abc")), ("loglikelihood_rolling", requests("loglikelihood_rolling"))):
        found, expected = (getattr(model, name)(asked, disable_tqdm=True) for model in (mine, reference))
        torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-5, atol=1e-4)


@pytest.mark.slow
@installed
def test_what_cannot_be_asked_is_refused(ironloom, twins, tasks):
    ours, _ = twins
    result = ironloom("eval", ours, "--tasks", "words_choise", "--include-path", tasks)
    assert (result.code, "did you mean 'words_choice'" in result.err) == (2, True)
    assert ironloom("eval", ours, "--tasks", "words_choice", "--include-path", tasks / "none").code == 2
    (tasks / "words.jsonl").unlink()
    result = ironloom("eval", ours, "--tasks", "words_choice", "--include-path", tasks)
    assert (result.code, "cannot be fetched" in result.err) == (4, True)


def test_options_without_effect_are_refused(ironloom, twins):
    for options in (["--include-path", "tasks"], ["--num-fewshot", "1"]):
        assert ironloom("eval", twins[0], "--data", "store", *options).code == 2
    assert ironloom("eval", twins[0], "--tasks", "a", "--stride", "1").code == 2
    assert ironloom("eval", twins[0], "--tasks", " , ").code == 2


def test_without_the_harness_it_is_said_what_to_install(ironloom, twins, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)  # importing it fails, as if it were not there
    result = ironloom("eval", twins[0], "--tasks", "hellaswag")
    assert (result.code, "ironloom[eval]" in result.err) == (2, True)
