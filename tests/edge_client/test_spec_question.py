import pytest

from edge_client.eligibility import Refusal
from edge_client.events import ExplainSpec
from edge_client.spec_question import SpecQuestion
from shared.errors import Reason
from tests.edge_client.builders import RUN, a_model, a_round

OTHER_MODEL = Refusal(Reason.SPEC)


def test_question_is_asked_once_and_again_when_the_link_is_lost() -> None:
    """An answer that cannot come any more is asked for again; one that came is not."""
    question = SpecQuestion()
    question.saw(a_round())
    assert question.ask(RUN, OTHER_MODEL) == ExplainSpec(RUN, a_model())
    assert question.ask(RUN, OTHER_MODEL) is None
    question.link_lost()
    assert question.ask(RUN, OTHER_MODEL) is not None
    question.told()
    question.link_lost()
    assert question.ask(RUN, OTHER_MODEL) is None
    question.again()
    assert question.ask(RUN, OTHER_MODEL) is not None


@pytest.mark.parametrize(
    ("run", "refusal"), [(None, OTHER_MODEL), ("run-2", OTHER_MODEL), (RUN, None), (RUN, Refusal(Reason.PROTOCOL))]
)
def test_nothing_is_asked_without_a_refusal_or_a_model(run: str | None, refusal: Refusal | None) -> None:
    """Only a device whose task is refused, and only about a model that is known."""
    question = SpecQuestion()
    question.saw(a_round())
    assert question.ask(run, refusal) is None
