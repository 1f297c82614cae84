"""The dashboard shows what happens while it happens."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from chromium import chromium
from dashboard_page import Dashboard
from embedded_pair import EmbeddedServer, submit
from processes import proxy

Servers = tuple[EmbeddedServer, EmbeddedServer]
LONG_S = 100
BUSY_HOUR = """
  const minutes = [...Array(60).keys()], wave = i => 1 + Math.sin(i / 7);
  window.draw ??= show;
  window.show = () => {};  // what comes meanwhile
  const completed = minutes.map(i => Math.round(60 * wave(i)));
  draw({...newest, last_hour: {
    completed, failed: minutes.map(i => i % 9), prompts: minutes.map(i => i % 23),
    prompts_failed: minutes.map(i => i % 3),
    waiting_seconds: minutes.map(i => 400 * wave(i)),
    processing_seconds: minutes.map(i => i % 5 ? 7.5 * wave(2 * i) : null)}});
  return [...document.querySelectorAll('svg rect, svg text')].filter(one => {
    const box = one.getBoundingClientRect(), plot = one.closest('section').getBoundingClientRect();
    return box.left < plot.left || box.right > plot.right || box.top < plot.top;
  }).map(one => one.outerHTML)"""
MODELS = """
  window.draw ??= show;
  window.show = () => {};  // what comes meanwhile
  const model_loads = {paid: 7, avoided: 9, seconds: 4.5};
  const instances = newest.instances.map(
    one => ({...one, models_loaded: arguments[0], models_more: 1, model_loads}));
  draw({...newest, instances});"""
MARKUP = "<img src=x onerror=window.attacked=true><script>window.attacked=true</script>"
HOSTILE = """
  const markup = value => typeof value === 'string' ? arguments[0]
    : Array.isArray(value) ? value.map(markup)
    : value && typeof value === 'object'
      ? Object.fromEntries(Object.entries(value).map(([name, one]) => [name, markup(one)])) : value;
  show(markup(newest));
  return {images: document.querySelectorAll('main img[src=x], main script').length,
          written: document.querySelector('main').innerText.split(arguments[0]).length - 1}"""


def prompt(url: str, graph: dict[str, object]) -> int:
    """Post a prompt as a client of ComfyUI; the status of the answer."""
    body = json.dumps({"prompt": graph, "client_id": "me"}).encode()
    request = urllib.request.Request(f"{url}/prompt", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_at_rest(dashboard: Dashboard, servers: Servers) -> None:
    """Both instances, no jobs, no errors; nothing in the console; nothing said twice."""
    dashboard.open()
    for server in servers:
        dashboard.until_text("#instances", server.host)
    assert dashboard.text("#status") == "healthy"
    assert dashboard.text("#instances").count("nothing runs") == 2
    assert dashboard.text("#jobs") == "no jobs"
    assert dashboard.text("#errors") == "none"
    assert dashboard.js("return document.querySelectorAll('figure > svg').length") == 3
    before = dashboard.text("#about")
    dashboard.until("return document.getElementById('about').innerText !== arguments[0]", before)
    assert dashboard.spoken() == []
    assert dashboard.overflowing() == []
    dashboard.screenshot("at-rest")
    assert dashboard.log.errors(dashboard.url) == set()


def test_an_instance_is_drained_and_resumed(dashboard: Dashboard, servers: Servers) -> None:
    """By a button on its card; what it says is what is so."""
    dashboard.open()
    press = "document.querySelector('.instance button').click()"
    dashboard.js(press)
    dashboard.until_text("#instances", "drained: it may be restarted")
    assert dashboard.text(".instance button") == "Resume"
    dashboard.screenshot("drained")
    dashboard.js(press)
    dashboard.until("return document.querySelector('.instance button').innerText === 'Drain'")
    assert dashboard.overflowing() == []
    assert dashboard.log.errors(dashboard.url) == set()


def test_an_instance_is_removed_and_added(dashboard: Dashboard, servers: Servers) -> None:
    """By a button on its card, which asks first, and by the form below."""
    dashboard.open()
    dashboard.until_text("#instances", servers[1].host)
    remove = f"document.querySelector('[aria-label=\"Remove {servers[1].host}\"]').click()"
    dashboard.js(f"window.confirm = () => false; {remove}")
    dashboard.js(f"window.confirm = () => true; {remove}")
    dashboard.until("return document.querySelectorAll('.instance').length === 1")
    dashboard.js(
        "document.getElementById('add-url').value = arguments[0];"
        "document.getElementById('add-name').value = 'back';"
        "document.querySelector('#add button').click()",
        servers[1].host,
    )
    dashboard.until_text("#add-told", "back has joined")
    dashboard.until_text("#instances", f"back · {servers[1].host}")
    dashboard.screenshot("added")
    assert dashboard.overflowing() == []
    assert dashboard.log.errors(dashboard.url) == set()


def test_under_load(dashboard: Dashboard, photograph: Path) -> None:
    """Progress and live preview of what runs, the queue, what ended and what failed, why."""
    dashboard.open()
    dashboard.js("window.notReloaded = true")
    submit(dashboard.url, "failing", photograph)
    for number in range(4):
        submit(dashboard.url, "showing", photograph, salt=number, seconds=0.1)
    dashboard.until_text("#queue", "4 completed, 1 failed")
    for number in range(4, 20):
        submit(dashboard.url, "showing", photograph, salt=number, seconds=LONG_S)
    size = {"width": 8, "height": 8, "batch_size": 1, "color": 0}
    empty = {"class_type": "EmptyImage", "inputs": size}
    save = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    assert prompt(dashboard.url, {"1": empty, "2": save}) == 200
    dashboard.until("return document.querySelectorAll('#instances img.preview').length === 2")
    dashboard.until("return document.querySelectorAll('#jobs img.preview').length === 2")
    assert (
        dashboard.js(
            "return [...document.querySelectorAll('img.preview')].map(one => one.naturalWidth)"
        )
        == [600] * 4
    )
    dashboard.until(
        "return [...document.querySelectorAll('#instances progress')]"
        "  .filter(one => one.value > 51).length === 2"
    )
    assert "10 waiting · 6 of 6 in processing" in dashboard.text("#queue")
    assert dashboard.text("#instances").count("2 jobs wait there") == 2
    assert "1 prompt of ComfyUI's clients" in dashboard.text("#instances")
    assert "number 10 in the queue" in dashboard.text("#jobs")
    assert "CUDA out of memory" in dashboard.text("#jobs")
    assert "CUDA out of memory" in dashboard.text("#errors")
    assert "4 jobs" in dashboard.text("#plot-done")
    assert dashboard.js("return document.querySelectorAll('#plot-done rect').length") >= 2
    assert {where for where, _ in dashboard.spoken()} <= {"status"}
    assert dashboard.js("return notReloaded")
    assert dashboard.overflowing() == []
    dashboard.screenshot("under-load")
    for width, dark, name in ((1280, True, "wide-dark"), (390, False, "narrow-light"),
                              (390, True, "narrow-dark")):  # fmt: skip
        dashboard.look(width, dark=dark)
        dashboard.until_text("#instances", "healthy")
        assert dashboard.overflowing() == [], name
        dashboard.screenshot(f"under-load-{name}")
    assert dashboard.log.errors(dashboard.url) == set()


def test_models(dashboard: Dashboard) -> None:
    """What is loaded where, by short names with the full ones in the title; loads paid, avoided."""
    dashboard.open()
    assert dashboard.text("#instances").count("none that is known of") == 2
    assert dashboard.text("#instances").count("0 paid, 0 avoided") == 2
    names = [f"sd/{'a_long_name_of_a_model_' * 3}.safetensors", "RMBG-2.0"]
    names += [f"win\\\\{number}.ckpt" for number in range(4)]
    for width in (1280, 390):
        dashboard.look(width)
        dashboard.js(MODELS, names)
        shown = dashboard.text("#instances")
        for told in ("a_long_name_of_a_model_a_lo…", "RMBG-2.0", "and 3 more", "7 paid (4.5 s)"):
            assert told in shown
        titles = dashboard.js(
            "return [...document.querySelectorAll('dd [title]')].map(a => a.title)"
        )
        assert titles[:2] == names[:2]
        assert titles[4] == "\n".join(names[4:])
        assert dashboard.overflowing() == []
        dashboard.screenshot(f"models-{width}")


def test_an_hour_of_figures_fits(dashboard: Dashboard) -> None:
    """Sixty full minutes, large and small: each bar inside its plot, at both widths."""
    dashboard.open()
    for width, name in ((1280, "hour-wide"), (390, "hour-narrow")):
        dashboard.look(width)
        assert dashboard.js(BUSY_HOUR) == []
        assert dashboard.overflowing() == []
        dashboard.screenshot(name)


def test_an_instance_is_lost_and_returns(dashboard: Dashboard, servers: Servers) -> None:
    """Named at the top and said once, red, with the reason among the errors; then well again."""
    dashboard.open()
    servers[1].kill()
    dashboard.until_status("degraded")
    assert dashboard.text("#status") == f"degraded: {servers[1].host} unhealthy"
    assert servers[1].host in dashboard.text(".instance.down h3")
    assert "open" in dashboard.text(".instance.down")
    assert f"circuit open ({servers[1].host})" in dashboard.text("#errors")
    assert dashboard.js("return document.title") == "⚠ comfy_proxy"
    dashboard.screenshot("one-down")
    dashboard.look(1280, dark=True)
    dashboard.screenshot("one-down-dark")
    assert "failures in a row" in dashboard.text(".instance.down")
    servers[1].start()
    dashboard.until_status("healthy")
    assert dashboard.js("return document.title") == "comfy_proxy"
    assert dashboard.spoken() == [
        ["status", f"degraded: {servers[1].host} unhealthy"],
        ["status", "healthy"],
    ]
    assert dashboard.log.errors(dashboard.url) == set()


def test_both_are_lost(dashboard: Dashboard, servers: Servers, photograph: Path) -> None:
    """It is said that nobody answers, and how many jobs wait for that."""
    dashboard.open()
    for server in servers:
        server.kill()
    dashboard.until_status("no instance answers")
    for _ in range(2):
        submit(dashboard.url, "showing", photograph, seconds=0)
    dashboard.until_status("no instance answers; 2 jobs wait")
    dashboard.screenshot("both-down")


def test_silence_is_told(dashboard: Dashboard) -> None:
    """A proxy that hangs sends nothing: what is shown may be wrong, and looks like that."""
    dashboard.open()
    dashboard.until_status("healthy")
    dashboard.js("quietMs = 300")
    dashboard.until_status("no news since")
    assert dashboard.js("return document.body.className") == "stale"
    dashboard.js("quietMs = 15000")
    dashboard.until_status("healthy")
    assert dashboard.js("return document.body.className") == ""


def test_what_strangers_wrote_is_text(dashboard: Dashboard, photograph: Path) -> None:
    """Every text of a state replaced by markup: it is shown as it was written, nothing runs."""
    dashboard.open()
    submit(dashboard.url, "failing", photograph)
    submit(dashboard.url, "showing", photograph, seconds=LONG_S)
    dashboard.until("return newest.errors.length && newest.instances.some(i => i.jobs.length)")
    shown = dashboard.js(HOSTILE, MARKUP)
    assert shown["images"] == 0
    assert shown["written"] >= 10
    dashboard.until("return newest.errors.every(error => error.code !== arguments[0])", MARKUP)
    assert dashboard.js("return window.attacked ?? null") is None
    assert dashboard.log.errors(dashboard.url) == set()


def test_the_proxy_is_away_for_a_while(
    servers: Servers, screenshots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page says so and goes on by itself; it says too that a key is asked for now."""
    with chromium() as driver:
        with proxy(servers, tmp_path) as url:
            page = Dashboard(driver, url, screenshots)
            page.open()
        page.until_status("the proxy cannot be reached")
        port = int(url.rpartition(":")[2])
        with proxy(servers, tmp_path, port=port):
            page.until_status("healthy")
        page.until_status("the proxy cannot be reached")
        monkeypatch.setenv("API_KEYS", "secret")
        with proxy(servers, tmp_path, port=port):
            page.until_status("a key is required")
            page.open("?token=secret")
            assert driver.current_url == f"{url}/dashboard"
            assert page.log.errors(url) == set()
