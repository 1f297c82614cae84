"""A person drops a picture on the dashboard, or chooses one with the keyboard alone."""

from __future__ import annotations

import itertools
from pathlib import Path

from dashboard_page import NARROW, Dashboard
from embedded_pair import EmbeddedServer
from selenium.webdriver import Keys

Servers = tuple[EmbeddedServer, EmbeddedServer]
SIZE = (600, 400)


def done(dashboard: Dashboard) -> None:
    """Wait until the picture has come."""
    dashboard.until_text("#try-status", "done in")
    dashboard.until("return document.getElementById('after-size').innerText")
    assert dashboard.js("return document.getElementById('try-progress').hidden")
    assert dashboard.js("return document.getElementById('go').ariaDisabled") == "false"


def transparent(dashboard: Dashboard) -> float:
    """Which part of the result is see-through."""
    return float(
        dashboard.js("""
          const image = document.getElementById('after');
          const canvas = document.createElement('canvas');
          [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
          const context = canvas.getContext('2d');
          context.drawImage(image, 0, 0);
          const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
          let clear = 0;
          for (let i = 3; i < data.length; i += 4) clear += data[i] < 16;
          return clear / (data.length / 4)""")
    )


def test_a_dropped_photograph_loses_its_background_and_is_upscaled(
    dashboard: Dashboard, photograph: Path, servers: Servers
) -> None:
    """Before and after side by side, sizes, where it ran, and a file to save; twice in a row."""
    dashboard.open()
    assert dashboard.picture("before") is None
    assert dashboard.picture("after") is None
    dashboard.drop(photograph)
    dashboard.until_text("#try-status", "coffee.png is chosen")
    dashboard.until_text("#before-size", "(600 × 400)")
    dashboard.screenshot("drop-chosen")
    dashboard.js("document.getElementById('go').click()")
    done(dashboard)
    assert dashboard.picture("before") == SIZE
    after = dashboard.picture("after")
    assert after is not None
    assert after <= SIZE
    assert 0.05 < transparent(dashboard) < 0.95
    assert dashboard.beside("before", "after")
    assert any(server.host in dashboard.text("#try-status") for server in servers)
    assert dashboard.js("return document.getElementById('save').download") == (
        "coffee-remove-background.png"
    )
    dashboard.screenshot("drop-background")

    dashboard.js("document.querySelector('[value=upscale-image]').click()")
    dashboard.js("document.getElementById('go').click()")
    dashboard.until("return document.getElementById('after-figure').hidden")
    done(dashboard)
    assert dashboard.picture("after") == (1200, 800)
    assert dashboard.beside("before", "after")
    dashboard.screenshot("drop-upscale")
    dashboard.look(NARROW, dark=True)
    assert dashboard.overflowing() == []
    dashboard.screenshot("drop-upscale-narrow-dark")
    assert {where for where, _ in dashboard.spoken()} == {"try-status"}
    said = [text for _, text in dashboard.spoken()]
    assert all(one != other for one, other in itertools.pairwise(said))
    assert dashboard.log.errors(dashboard.url) == set()


def test_with_the_keyboard_alone(dashboard: Dashboard, photograph: Path) -> None:
    """Tab leads to the picture, the choice, the button; where the focus is can be seen."""
    dashboard.open()
    seen = dashboard.tab_to("file")
    dashboard.choose_by_keyboard(photograph)
    dashboard.until_text("#try-status", "coffee.png is chosen")
    dashboard.press(Keys.TAB)  # the chosen radio button
    dashboard.press(Keys.ARROW_RIGHT)
    assert dashboard.js("return document.activeElement.value") == "upscale-image"
    seen += dashboard.tab_to("scale")
    dashboard.press(Keys.BACKSPACE, "3")
    seen += dashboard.tab_to("go")
    dashboard.screenshot("keyboard-focus")
    dashboard.press(Keys.ENTER)
    done(dashboard)
    assert dashboard.js("return document.activeElement.id") == "go"  # the focus stays where it was
    assert dashboard.picture("after") == (1800, 1200)
    seen += dashboard.tab_to("save")
    assert [one for one in seen if one["outline"] < 2 or not one["visible"]] == []
    assert dashboard.log.errors(dashboard.url) == set()


def test_a_picture_beside_the_place_for_it(dashboard: Dashboard, photograph: Path) -> None:
    """A drop elsewhere does not replace the page by the picture."""
    dashboard.open()
    dashboard.js("window.notReloaded = true")
    dashboard.drop(photograph, "#instances")
    dashboard.drop(photograph)
    dashboard.until_text("#try-status", "coffee.png is chosen")
    assert dashboard.js("return notReloaded")


def test_what_is_no_picture_is_refused_in_words(dashboard: Dashboard, tmp_path: Path) -> None:
    """The proxy's own words, red; the next picture is welcome."""
    text = tmp_path / "text.png"
    text.write_text("no picture")
    dashboard.open()
    dashboard.drop(text)
    dashboard.until_text("#before-size", "cannot show it")
    dashboard.js("document.getElementById('go').click()")
    dashboard.until("return document.querySelector('#try-status.bad')?.innerText")
    assert "picture" in dashboard.text("#try-status")
    assert dashboard.js("return document.getElementById('go').ariaDisabled") == "false"
    assert dashboard.picture("after") is None
    dashboard.screenshot("drop-refused")


def test_a_new_picture_makes_the_old_answer_worthless(
    dashboard: Dashboard, photograph: Path
) -> None:
    """What comes of the first one is not shown beside the second one."""
    other = photograph.with_name("chelsea.png")
    dashboard.open()
    dashboard.drop(photograph)
    dashboard.until_text("#before-size", "(600 × 400)")
    dashboard.js("document.getElementById('go').click()")
    dashboard.drop(other)
    dashboard.until_text("#before-size", "(451 × 300)")
    dashboard.until_text("#queue", "1 completed")
    assert dashboard.picture("after") is None
    assert dashboard.text("#try-status") == "chelsea.png is chosen"
    assert dashboard.js("return document.getElementById('go').ariaDisabled") == "false"
