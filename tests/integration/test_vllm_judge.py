"""A judge on a real vLLM, whose model knows nothing: what it says has the form of a verdict and is none."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from chats import CHATML, byte_tokenizer
from judging import GRADES, SUM, said
from support import require, run_async, vllm_python
from tiny_models import tiny_model

from palaestra.agents.engines.vllm_server import VllmServer
from palaestra.envs import Ungraded
from palaestra.envs.graders import grade_episode
from palaestra.envs.graders.judge import Judge, JudgeModel
from palaestra.envs.graders.judge.brief import Brief

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]


def save_model(folder: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    tiny_model(
        hidden_size=128,
        vocab_size=272,
        max_position_embeddings=4096,
        eos_token_id=257,
    ).save_pretrained(folder)
    fast: Any = PreTrainedTokenizerFast  # partly untyped
    fast(tokenizer_object=byte_tokenizer(), eos_token="<|im_end|>", chat_template=CHATML).save_pretrained(
        folder
    )


def test_vllm_holds_a_judge_to_its_schema_and_what_means_nothing_gives_no_number(tmp_path: Path) -> None:
    require("vllm")
    save_model(tmp_path / "model")
    options = {"temperature": 1.0, "max_tokens": 80}

    async def main() -> tuple[str, Any, JudgeModel]:
        server = VllmServer(tmp_path / "model", log=tmp_path / "vllm.log", python=vllm_python())
        async with server:
            model = JudgeModel(
                f"{server.url}/v1", server.model, options=options, structured="response_format", max_asks=2
            )
            outcome = await grade_episode(Judge(model=model, form=GRADES), SUM, said("4"), timeout_s=120.0)
            brief = Brief(asks="Judge.", sections=(), fields=GRADES.fields())
            form = {"name": "verdict", "strict": True, "schema": brief.schema}
            payload = {
                "model": server.model,
                "messages": brief.fenced()[1],
                "response_format": {"type": "json_schema", "json_schema": form},
                **options,
            }
            async with httpx.AsyncClient(timeout=120.0) as client:
                reply = (await client.post(f"{server.url}/v1/chat/completions", json=payload)).json()
            return reply["choices"][0]["message"]["content"], outcome, model

    text, outcome, model = run_async(main())
    assert "".join(text.split()).startswith('{"mark":"'), text
    assert isinstance(outcome, Ungraded) and "gave no verdict in 2 replies" in outcome.reason, outcome
    assert model.spent.num_asked == 2 and model.spent.prompt_tokens > 1000
    assert 0 < model.spent.sampled_tokens <= 160
