"""The report of a run: what stands on the page, and how it behaves in a browser."""

import html
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import plotly.graph_objects as go
import pytest
from matplotlib.image import imread

from autosplit.core.result import Result
from autosplit.evaluation.objective import best_outcome
from autosplit.evaluation.scorer import Scorer, score
from autosplit.pipeline.ledger import LEDGER_FILE, load_run
from autosplit.report.draw_matplotlib import draw_figures
from autosplit.report.figures import DEPLOYMENTS, PLANS
from autosplit.report.page import REPORT_FILE, report_page, write_report
from autosplit.report.pareto import one_a_plan
from autosplit.report.sensitivity import Sensitivity
from autosplit.report.tables import STAGES
from autosplit.report.verdict import verdict
from tests.runs import failure, invoke

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
FIGURES = ["tradeoff", "stages", "heat-map", "search-curve", "energy", "sensitivity-plans", "sensitivity",
           "map"]
CHROME, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"


class Page(HTMLParser):
    """Text and attributes of a page."""

    def __init__(self, text):
        super().__init__()
        self.attributes, self.parts, self.tags = [], {}, []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self._inside = dict(attrs).get("id") or tag

    def handle_data(self, data):
        self.parts[self._inside] = self.parts.get(self._inside, "") + data


@pytest.fixture(scope="module")
def reports(world, tmp_path_factory):
    """A finished tiny search, and the reference: result, outcomes, page."""
    path = tmp_path_factory.mktemp("report") / REPORT_FILE
    write_report(*load_run(REFERENCE), path)
    files = {"tiny": (world.run, world.run / REPORT_FILE), "reference": (REFERENCE, path)}
    found = {}
    for name, (run, file) in files.items():
        result, outcomes = load_run(run)
        text = file.read_text(encoding="utf-8")
        found[name] = SimpleNamespace(result=result, outcomes=outcomes, file=file, text=text, page=Page(text),
                                      f1=[o for o in outcomes if o.measurement.fidelity == "F1"])
    return found


@pytest.fixture(params=["tiny", "reference"])
def report(request, reports):
    return reports[request.param]


@pytest.fixture
def data(report):
    return json.loads(report.page.parts["data"])


# --- the page -------------------------------------------------------------------------------------------------------


def test_nothing_is_loaded_from_elsewhere(report):
    loading = {"src", "href", "srcset", "action", "data", "poster", "formaction", "background"}
    assert [a for a in report.page.attributes if a[1] in loading and not a[2].startswith("data:")] == []
    assert re.search(r"url\(|@import", report.page.parts["style"]) is None
    policy = next(v for _, name, v in report.page.attributes if name == "content" and "default-src" in v)
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    assert {"iframe", "object", "embed", "base"} & set(report.page.tags) == set()


def test_figures_are_valid_and_show_the_ledger(report, data):
    assert sorted(data["figures"]) == sorted(FIGURES)
    for figure in data["figures"].values():
        go.Figure(figure)  # raises where a property does not exist
    go.Figure(layout=data["template"])
    budget = report.result.scenario.conditions.budget_ms
    traces = data["figures"]["tradeoff"]["data"]
    dots = [t for t in traces if t.get("legendgroup") == PLANS and t["mode"] == "markers"]
    shown = {(x, y) for t in dots for x, y in zip(t["x"], t["y"], strict=True)}
    assert shown == {(o.latency.p95_ms, 100 * o.measurement.accuracy) for o in one_a_plan(report.outcomes)}
    named = {re.match(r"<b>(.*?)</b>", text)[1] for t in dots for text in t["hovertext"]}
    assert named == {html.escape(o.plan.label) for o in report.outcomes}
    marks = [t for t in traces if t.get("legendgroup") == DEPLOYMENTS]
    assert {t["x"][0] for t in marks} == {row.latency.p95_ms for row in report.result.comparison}
    assert sum(t["marker"]["symbol"] == "star" for t in marks) == 1
    assert data["figures"]["tradeoff"]["layout"]["shapes"][1]["x0"] == budget


def test_bars_show_the_comparison(report, data):
    rows = sorted(report.result.comparison, key=lambda row: not row.chosen)
    stages = {t["name"]: t["x"] for t in data["figures"]["stages"]["data"] if t["type"] == "bar"}
    assert stages == {s: [getattr(row.latency, f"{s}_ms") for row in rows] for s in STAGES}
    (energy,) = data["figures"]["energy"]["data"]
    assert energy["x"] == [row.latency.energy_mj for row in rows]
    assert len(set(energy["y"])) == len(rows)


def test_search_curve_and_heat_map_show_the_measurements(report, data):
    curve = {t["name"]: t for t in data["figures"]["search-curve"]["data"]}
    assert len(curve["in time"]["x"]) + len(curve["too late"]["x"]) == len(report.f1)
    feasible = [o.reward for o in report.f1 if o.feasible]
    assert curve["best so far"]["y"][-1] == max(feasible)
    cells = [v for row in data["figures"]["heat-map"]["data"][0]["z"] for v in row if v is not None]
    assert max(cells) == pytest.approx(100 * max(o.measurement.accuracy for o in report.f1))


def test_words_and_provenance(report):
    text = re.sub(r"\s+", " ", report.text)
    result = report.result
    assert verdict(result.comparison, result.scenario.conditions.budget_ms, result.best_baseline) in text
    origin = report.result.provenance
    for figure in (origin.data_fingerprint, origin.backbone_key, origin.supernet_key, origin.versions["torch"],
                   report.result.stored.sha256, report.result.test.payload_sha256,
                   report.result.scenario.fingerprint):
        assert figure in text
    assert report.result.scenario.to_yaml().splitlines()[0] in report.page.parts["pre"]


def test_what_comes_from_outside_is_text(reports):
    result = reports["reference"].result
    evil = "<img src=x onerror=alert(1)></script>"
    rows = [row.model_copy(update={"name": evil, "plan": evil}) for row in result.comparison]
    page = report_page(result.model_copy(update={"comparison": tuple(rows)}), reports["reference"].outcomes)
    assert "img" not in Page(page).tags
    assert evil not in page
    figures = json.loads(Page(page).parts["data"])["figures"]
    assert evil not in json.dumps(figures)  # plotly takes some tags in names


def test_a_latency_model_that_is_gone_costs_the_sensitivity_alone(reports, tmp_path):
    result = reports["tiny"].result
    gone = result.model_copy(update={"scenario": result.scenario.replace(latency_model="gone.py:Model")})
    page = Page(report_page(gone, reports["tiny"].outcomes))
    assert "gone.py" in page.parts["p"]
    assert sorted(json.loads(page.parts["data"])["figures"]) == sorted(FIGURES[:-3])
    files = draw_figures(gone, reports["tiny"].outcomes, tmp_path, "svg")
    assert "sensitivity" not in {path.stem for path in files}


# --- sensitivity ----------------------------------------------------------------------------------------------------


def test_the_grid_agrees_with_the_search_own_choice(reports):
    """At each rate and budget: the plan that the objective would choose from all measured ones."""
    reference = reports["reference"]
    outcomes = [o for o in reference.f1 if o.plan.codec.kind == "code"]  # so that nothing is in time somewhere
    scorer = Scorer.of(reference.result.scenario)
    found = Sensitivity.of(outcomes, scorer)
    here = scorer.conditions
    late = 0
    for r in range(0, len(found.factors), 4):
        for b in range(0, len(found.budgets_ms), 3):
            channel = here.channel.scaled(float(found.factors[r]), 1.0)
            there = here.model_copy(update={"channel": channel, "budget_ms": float(found.budgets_ms[b])})
            best = best_outcome(score([o.measurement for o in outcomes], scorer.latency_model, scorer.objective, there))
            late += not best.feasible
            assert outcomes[found.best[r, b]].plan == best.plan
            assert bool(found.feasible[r, b]) is best.feasible
            assert found.in_time[r, b] == pytest.approx(best.latency.in_time)
            assert found.latency.p95_ms[found.best[r, b], r] == pytest.approx(best.latency.p95_ms)
    assert 0 < late < 100
    assert (np.isnan(found.accuracy) == ~found.feasible).all()


def test_at_home_the_sliders_show_the_ledger(report, data):
    grid = data["sensitivity"]
    r, b = grid["home"]
    assert grid["p95_ms"][r] == pytest.approx([o.latency.p95_ms for o in report.f1], rel=1e-4)
    assert grid["energy_mj"][r] == pytest.approx([o.latency.energy_mj for o in report.f1], rel=1e-4)
    assert grid["accuracy"] == [100 * o.measurement.accuracy for o in report.f1]
    assert report.f1[grid["best"][r][b]].plan == best_outcome(report.f1).plan
    assert grid["budgets_ms"][b] == report.result.scenario.conditions.budget_ms


# --- figures as files -----------------------------------------------------------------------------------------------


def test_figures_as_files(reports, tmp_path):
    reference = reports["reference"]
    files = draw_figures(reference.result, reference.outcomes, tmp_path / "new", "svg")
    assert [p.stem for p in files] == ["tradeoff", "stages", "energy", "heat-map", "search-curve", "sensitivity",
                                       "map"]
    assert all(p.stat().st_size > 5_000 for p in files)
    text = files[1].read_text(encoding="utf-8")
    assert [stage for stage in STAGES if f">{stage}<" not in text] == []
    assert f">{reference.result.comparison[-1].latency.p95_ms:.3g} ms<" in text


# --- the command ----------------------------------------------------------------------------------------------------


def test_report_command(world, tmp_path):
    shown = invoke("report", world.run, "--out", tmp_path / "new" / "x.html", "--figures", tmp_path / "f",
                   "--json")
    assert shown.exit_code == 0, shown.stderr
    said = json.loads(shown.stdout)
    assert said["verdict"].startswith(("Deploy ", "Split: ", "No deployment is in time"))
    assert Path(said["page"]).read_text(encoding="utf-8") == (world.run / REPORT_FILE).read_text(encoding="utf-8")
    assert len(said["figures"]) == 7
    assert all(imread(path).shape[2] == 4 for path in said["figures"])


def test_report_command_for_people(world, tmp_path):
    shown = invoke("report", world.run, "--out", tmp_path / "[x].html")
    first, last = shown.stdout.splitlines()
    assert first == verdict(Result.load(world.run / "best.json").comparison, 100.0)
    assert last == f"written to {tmp_path / '[x].html'}"
    assert shown.stderr == ""


def test_report_command_refuses(world, tmp_path):
    assert "holds no ledger.jsonl" in failure("report", tmp_path)
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / LEDGER_FILE).write_bytes((world.run / LEDGER_FILE).read_bytes())
    assert f"autosplit search --resume {unfinished}" in failure("report", unfinished)
    (tmp_path / "file").write_text("")
    assert "give another file with --out" in failure("report", world.run, "--out", tmp_path / "file" / "x.html")
    (unfinished / "best.json").write_text("{")
    assert "probably truncated" in failure("report", unfinished)


# --- in a browser ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install '.[test]'")
    if not (os.access(CHROME, os.X_OK) and os.access(DRIVER, os.X_OK)):
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = CHROME
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                     "--hide-scrollbars", "--window-size=1280,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which(DRIVER)))
    yield driver
    driver.quit()


def opened(browser, file, width=1280, scheme="light"):
    from selenium.webdriver.support.ui import WebDriverWait

    browser.execute_cdp_cmd("Emulation.setEmulatedMedia",
                            {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600})
    browser.get(file.as_uri())
    WebDriverWait(browser, 60).until(lambda d: d.execute_script("return document.documentElement.dataset.ready"))


def test_it_opens_without_a_word_on_the_console_and_without_a_request(browser, report):
    browser.get_log("performance")
    opened(browser, report.file)
    assert browser.get_log("browser") == []
    drawn = browser.execute_script(
        "return [...document.querySelectorAll('.chart')].map(c => [c.id, c.querySelectorAll('.main-svg').length > 0])")
    assert sorted(drawn) == sorted([f"figure-{name}", True] for name in FIGURES)
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith(("file:", "data:", "blob:"))} == set()
    assert report.file.as_uri() in asked


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_and_is_coloured_for(browser, reports, width, scheme):
    opened(browser, reports["reference"].file, width, scheme)
    assert browser.execute_script("return document.documentElement.scrollWidth") == width
    colour = browser.execute_script("return document.getElementById('figure-tradeoff')._fullLayout.font.color")
    assert colour == ("#222222" if scheme == "light" else "#ececec")
    beyond = browser.execute_script(
        "return [...document.querySelectorAll('.chart')].filter(c => c.getBoundingClientRect().right > innerWidth)"
        ".map(c => c.id)")
    assert beyond == []


def test_sliders_and_map_change_the_plan(browser, reports):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    reference = reports["reference"]
    grid = json.loads(reference.page.parts["data"])["sensitivity"]
    opened(browser, reference.file)

    def state():
        return browser.execute_script(
            "const s = document.getElementById('figure-sensitivity-plans');"
            "const m = document.getElementById('figure-sensitivity');"
            "return {row: [...document.getElementById('best').cells].map(c => c.innerText),"
            "star: [s.data[1].x[0], s.data[1].y[0]], line: s.layout.shapes[1].x0, dots: s.data[0].x,"
            "circle: [m.data[1].y[0], m.data[1].x[0]], rate: document.getElementById('rate-value').textContent}")

    def check(r, b):
        now, best = state(), grid["best"][r][b]
        assert now["row"][0].startswith(grid["plans"][best])
        assert now["row"][1] == f"{grid['accuracy'][best]:.1f} %"
        assert now["star"] == [grid["p95_ms"][r][best], grid["accuracy"][best]]
        assert now["dots"] == grid["p95_ms"][r]
        assert now["line"] == grid["budgets_ms"][b]
        assert now["circle"] == [r, b]
        assert now["rate"] == grid["rates"][r]

    r, b = grid["home"]
    check(r, b)
    rate, budget = browser.find_element(By.ID, "rate"), browser.find_element(By.ID, "budget")
    for _ in range(6):
        rate.send_keys(Keys.ARROW_LEFT)
    check(r - 6, b)
    for _ in range(9):
        budget.send_keys(Keys.ARROW_LEFT)
    check(r - 6, b - 9)
    assert grid["best"][r - 6][b - 9] != grid["best"][r][b]
    browser.find_element(By.ID, "home").click()
    check(r, b)
    browser.execute_script(
        "document.getElementById('figure-sensitivity').emit('plotly_click', {points: [{x: 2, y: 30}]})")
    check(30, 2)
    assert browser.get_log("browser") == []
