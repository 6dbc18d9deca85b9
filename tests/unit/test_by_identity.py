"""What is worked out once for each frozen value is forgotten with it, and never told of another one."""

from domain.by_identity import ByIdentity, once_for_each
from domain.entity import Value


class Number(Value):
    value: int


def test_each_value_is_asked_about_once() -> None:
    asked: list[int] = []

    @once_for_each
    def double(number: Number) -> int:
        asked.append(number.value)
        return 2 * number.value

    one, equal = Number(value=4), Number(value=4)
    assert [double(one), double(one), double(equal)] == [8, 8, 8]
    assert asked == [4, 4]


def test_what_is_gone_is_forgotten() -> None:
    known: ByIdentity[Number, int] = ByIdentity()
    for value in range(1_000):
        # Each is freed before the next one is made, which then often lies where that one lay.
        number = Number(value=value)
        assert known.get(number) is None
        assert known.keep(number, value) == known.get(number) == value
        assert known.get(number.model_copy()) is None
        del number
    assert len(known) == 0
