"""Orders are state: who asks again gets the same answer, and telling a result twice changes nothing."""

from __future__ import annotations

import asyncio
from typing import Any

from raymix.training.coordinator import TrialAssignment, TrialCoordinator, TrialProgress


def fresh() -> Any:
    return TrialCoordinator.__ray_metadata__.modified_class()  # type: ignore[attr-defined]


def test_an_order_stays_until_the_next_and_is_numbered() -> None:
    async def story() -> None:
        box = fresh()
        waiting = asyncio.create_task(box.next_assignment("a", 0))
        await asyncio.sleep(0)
        assert not waiting.done()
        await box.assign("a", TrialAssignment(3, folder="f"))
        first = await waiting
        assert (first.trial, first.seq) == (3, 1) and first.given > 0
        assert await box.next_assignment("a", 0) == first  # a restarted worker asks again
        await box.assign("a", TrialAssignment(4, folder="g"))
        assert (await box.next_assignment("a", first.seq)).trial == 4
        assert await box.seq("a") == 2 and await box.seq("b") == 0

    asyncio.run(story())


def test_results_and_failures_reach_who_waits() -> None:
    async def story() -> None:
        box = fresh()
        assert await box.result("f", 1, timeout=0.01) is None
        waiting = asyncio.create_task(box.result("f", 1, timeout=5))
        await box.report("f", 1, {"loss": 1.0})
        await box.report("f", 1, {"loss": 2.0})  # told again after a restart: the first counts
        assert await waiting == {"loss": 1.0}
        await box.fail("f", "not finite")
        assert await box.result("f", 2, timeout=5) == {"failed": "not finite"}
        assert await box.result("f", 1, timeout=5) == {"loss": 1.0}
        await box.forget("f")
        assert await box.result("f", 1, timeout=0.01) is None

    asyncio.run(story())


def test_a_new_order_for_a_folder_forgets_its_failure() -> None:
    async def story() -> None:
        box = fresh()
        await box.fail("f", "out of memory")
        await box.assign("a", TrialAssignment(1, folder="f"))
        assert await box.result("f", 1, timeout=0.01) is None

    asyncio.run(story())


def test_positions() -> None:
    async def story() -> None:
        box = fresh()
        assert await box.get_progress(7) == TrialProgress()
        await box.set_progress(7, TrialProgress(3, "uri", 1, 0.5))
        assert (await box.get_progress(7)).epoch == 3

    asyncio.run(story())


def test_starts_are_counted_in_all_and_since_the_last_result() -> None:
    async def story() -> None:
        box = fresh()
        assert [await box.begin("f") for _ in range(3)] == [[1, 1], [2, 2], [3, 3]]
        await box.report("f", 1, {"loss": 1.0})
        assert await box.begin("f") == [4, 1]
        await box.report("f", 1, {"loss": 1.0})  # told again by the group that came back: no progress
        assert await box.begin("f") == [5, 2]
        assert await box.begin("f", 2) == [6, 2]  # made larger, not lost
        assert await box.begin("f", 2) == [7, 3]
        await box.forget("f")
        assert await box.begin("f") == [1, 1]

    asyncio.run(story())


def test_a_failed_trial_is_not_ordered_again() -> None:
    """A group that starts again after its trial has failed waits for the next trial instead of training that one."""

    async def story() -> None:
        box = fresh()
        await box.assign("a", TrialAssignment(3, folder="f"))
        await box.fail("f", "out of memory")
        await box.forget("f")  # the slot is about to get its next order
        waiting = asyncio.create_task(box.next_assignment("a", 0))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await box.assign("a", TrialAssignment(4, folder="g"))
        assert (await waiting).trial == 4

    asyncio.run(story())


def test_one_slot_at_a_time_makes_room() -> None:
    async def story() -> None:
        box = fresh()
        assert [await box.may_yield(60.0), await box.may_yield(60.0), await box.may_yield(0.0)] == [True, False, True]

    asyncio.run(story())
