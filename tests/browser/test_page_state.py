"""What the page keeps on the server is kept by both."""

from __future__ import annotations

from frontend import Frontend
from page_prompts import Servers
from pictures import fresh, timed_graph
from processes import wait_for


def test_a_saved_workflow_and_a_setting_are_on_both_instances_and_there_after_a_reload(
    frontend: Frontend, servers: Servers
) -> None:
    """*Save as* with a name beyond ASCII, and a setting of the page."""
    name = f"bläue {fresh()}"
    frontend.open()
    frontend.show(timed_graph(0.5))
    frontend.save_as(name)
    opacity = fresh() % 1000 / 1000
    frontend.js(
        "return app.extensionManager.setting.set('Comfy.Node.Opacity', arguments[0])", opacity
    )
    for server in servers:
        workflow = wait_for(lambda kept=server: kept.user_file(f"workflows/{name}.json"))
        assert {node["type"] for node in workflow["nodes"]} >= {"LoadImage", "TimedPass"}
        settings = server.user_file("comfy.settings.json")
        assert settings["Comfy.Node.Opacity"] == opacity
    frontend.reload()
    frontend.press(".workflows-tab-button")
    frontend.until("return document.body.innerText.includes(arguments[0])", name)
    kept = frontend.js("return app.extensionManager.setting.get('Comfy.Node.Opacity')")
    assert kept == opacity
    frontend.screenshot("saved-workflow")
