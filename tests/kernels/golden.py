"""Comparison with the golden vectors, shared by the kernel and the command tests."""

import json
from pathlib import Path
from typing import Any

RTOL = 1e-9  # the tolerance the vectors were published with; the kernels stay near 1e-14
ATOL = 1e-12
FOLDER = Path(__file__).parents[1] / "data" / "golden"
COMMANDS = {
    "market_state": "market-state",
    "stops": "stops",
    "harvest": "harvest",
    "sizing": "sizing",
    "efficiency": "efficiency",
    "allocation": "allocation",
    "permit_hint": "permit-hint",
}


def cases(name: str) -> list[dict[str, Any]]:
    """Return the cases of one golden file."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def largest_relative_error(actual: Any, expected: Any, path: str = "") -> float:
    """Compare nested results and return the largest relative error; text, keys and lengths must be equal."""
    if isinstance(expected, dict):
        assert set(actual) >= set(expected), path
        return max((largest_relative_error(actual[k], v, f"{path}.{k}") for k, v in expected.items()), default=0.0)
    if isinstance(expected, list):
        assert len(actual) == len(expected), (path, actual, expected)
        pairs = enumerate(zip(actual, expected, strict=True))
        return max((largest_relative_error(a, e, f"{path}[{i}]") for i, (a, e) in pairs), default=0.0)
    if isinstance(expected, int | float):
        error = abs(actual - expected)
        assert error <= ATOL + RTOL * abs(expected), (path, actual, expected)
        return error / abs(expected) if expected else 0.0
    assert actual == expected, (path, actual, expected)
    return 0.0


def without_ours(result: dict[str, Any] | None) -> dict[str, Any] | None:
    """Take out the flag that the stops vectors do not carry."""
    if result is not None and "sl_breached" in result:
        assert result["sl_breached"] == (result["reason_codes"][-1] == "sl_breached")
        result = result | {"reason_codes": [code for code in result["reason_codes"] if code != "sl_breached"]}
    return result


def golden_errors() -> dict[str, float]:
    """Compute every golden case with its kernel; return the largest relative error per file."""
    from quantum_ops.cli.history.calc import CASES

    by_command = {case.kernel: case for case in CASES}
    errors = {}
    for name, command in COMMANDS.items():
        worst = 0.0
        for case in cases(name):
            result, reason = by_command[command].model_validate(case).compute()
            assert (result is None) == (case["expected"] is None) == (reason is not None), case["name"]
            worst = max(worst, largest_relative_error(without_ours(result), case["expected"], case["name"]))
        errors[name] = worst
    return errors


if __name__ == "__main__":
    print(json.dumps(golden_errors(), indent=2))  # noqa: T201 the report itself
