"""An agent as a durable function: a model that calls tools, a budget for its tokens, a person who is asked, a stream.

Run `penstock up` and then this. Wherever the worker dies, another one goes on there: no answer of the model is paid
for twice, and no tool is called again.
"""

from datetime import timedelta

import msgspec

from penstock import Task, Worker

worker = Worker("nats://localhost:4222")

MOST_TURNS = 20


class Goal(msgspec.Struct):
    """What the agent shall do. Its tokens count in `budget`, which the execution must list in its `budget_ids`."""

    text: str
    budget: str


class Message(msgspec.Struct):
    role: str
    text: str


class Answer(msgspec.Struct):
    """What the model says: a tool to call, or `tool` None for its last word. `tokens` is what it has used."""

    text: str
    tool: str | None
    tokens: int


# A model and its tools. Here they are small functions, so that the example runs anywhere: put your own in their place.


def model(talk: list[Message]) -> Answer:
    said = {message.role: message.text for message in talk}
    if "weather" not in said:
        text, tool = "I look up the weather.", "weather"
    elif "ask_person" not in said:
        text, tool = "Shall I book the boat?", "ask_person"
    elif said["ask_person"] == "yes" and "book" not in said:
        text, tool = "I book the boat.", "book"
    else:
        text, tool = f"Done: {said.get('book', 'no boat was booked')}.", None
    return Answer(text, tool, tokens=sum(len(message.text.split()) for message in talk) + len(text.split()))


def weather(talk: list[Message]) -> str:
    return "sunny"


def book(talk: list[Message]) -> str:
    return "boat 7 is booked"


TOOLS = {"weather": weather, "book": book}


async def think(task: Task, turn: int, talk: list[Message]) -> Answer:
    """Ask the model, and stream its words as they come. After a crash they are streamed again, under the same turn."""
    answer = model(talk)
    for word in answer.text.split():
        await task.append_frame("word", word, {"turn": turn})
    return answer


async def pay(task: Task, turn: int, budget: str, tokens: int) -> None:
    """Count tokens once. If that passes the budget, the execution is suspended here until the budget has room."""
    await task.report_usage(budget, {"tokens": tokens}, dedup_key=f"{task.execution_id}/{turn}")


@worker.handler("agent", version="1")
async def agent(task: Task, goal: Goal) -> str:
    talk = [Message("user", goal.text)]
    for turn in range(MOST_TURNS):
        answer = await task.step("think", think, task, turn, talk, key=turn)
        await task.step("pay", pay, task, turn, goal.budget, answer.tokens, key=turn)
        if answer.tool is None:
            return answer.text
        if answer.tool == "ask_person":
            task.state["question"] = answer.text  # `client.journals.state` reads it, with or without a worker
            reply = await task.wait_signal("answer", key=turn, timeout=timedelta(days=1), default=None)
            heard = "nobody answers" if reply is None else str(reply.payload)
        else:
            heard = await task.step(answer.tool, TOOLS[answer.tool], talk, key=turn)
        talk += [Message("model", answer.text), Message(answer.tool, heard)]
    return "I could not do it."


if __name__ == "__main__":
    worker.main()
