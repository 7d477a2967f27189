"""Meshes of the shape that the feature tests use, and tables that are shown even if all is well."""

import importlib.util
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from fuzz.ours import _fixtures as of_the_proxy

_TABLES = pytest.StashKey[list[str]]()


def _features() -> Any:
    """tests/proxy/features/conftest.py, which cannot be imported by a name."""
    name = "integration_grid_fixtures"
    if name not in sys.modules:
        path = Path(__file__).resolve().parents[1] / "proxy" / "features" / "conftest.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Any]:
    """The loop that the proxy runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def make_grid(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """``await make_grid(app_type)``: a running ``Grid`` whose applications are ``app_type()``."""
    made: list[Any] = []
    proxy = of_the_proxy()

    async def make(app_type: Callable[[], Any] = proxy.App) -> Any:
        grid = _features().Grid(proxy.MeshPki(tmp_path / "pki"), app_type, proxy.Client)
        made.append(grid)
        await grid.start()
        return grid

    yield make
    for grid in made:
        await grid.stop()


@pytest.fixture
def show(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Text for the end of the output, whatever the outcome."""
    return request.config.stash.setdefault(_TABLES, []).append


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    for text in config.stash.get(_TABLES, []):
        terminalreporter.write_line("")
        terminalreporter.write_line(text)
