"""The page in a real browser, on a real Kafka: headless Chromium, as Debian has it."""

import json
import shutil
import time
from importlib import resources

import pytest
from kafka import TopicPartition

from contract.feedback import Feedback
from contract.steady_consumer import SteadyConsumer
from tests.worker.console.deployment import ConsoleDeployment, wait_until
from tests.worker.console.records import anomaly, event_id, health, jpeg, picture, said, score

playwright_api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium; apt-get install chromium"),
]
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
HOSTILE = '<img src=x onerror="window.hit=1"><script>window.hit=1</script>\'&\u202e'
PHONE = {"width": 390, "height": 844}
WITHIN_MS = 2_000
UNKNOWN = "0" * 32

expect = playwright_api.expect


@pytest.fixture(scope="module")
def browser():
    with playwright_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture
def deployment(broker, tmp_path, request):
    name = "".join(one if one.isalnum() else "-" for one in request.node.name)
    made = ConsoleDeployment(broker, tmp_path, f"page-{name[:60]}")
    with made.console():
        yield made
    made.close()


@pytest.fixture
def page(browser, deployment):
    """An open page; it must say no error, meet no violation of its policy, and ask nobody but the console."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, locale="en-GB", timezone_id="Europe/Berlin")
    opened = context.new_page()
    opened.set_default_timeout(20_000)
    said_errors, asked = [], set()
    opened.on("console", lambda message: said_errors.append(message.text) if is_fault(message) else None)
    opened.on("pageerror", lambda error: said_errors.append(str(error)))
    opened.on("request", lambda one: asked.add(one.url.split("/", 3)[2]))
    go(opened, deployment)
    yield opened
    context.close()
    assert said_errors == []
    assert asked == {deployment.address.split("/")[2]}


def is_fault(message):
    """Whether the browser's console says what no test has asked for."""
    return message.type == "error" and not message.location["url"].endswith(UNKNOWN)


def go(page, deployment, place=""):
    page.goto(f"{deployment.address}/{place}")
    expect(page.locator("#live")).to_have_text("live")


def row(page, number, camera_id="door"):
    return page.locator(f"#events a[href$='{event_id(number, camera_id)}']")


def opened(page, deployment, *alerts):
    """Send an event's alerts and open it."""
    deployment.send("alerts", *alerts)
    row(page, 1).click()
    expect(page.locator("#detail h2")).to_have_text("door")


def opacity(page):
    return float(page.locator("#heat").evaluate("node => getComputedStyle(node).opacity"))


def test_an_alert_appears_within_two_seconds_of_its_record(page, deployment):
    expect(page.locator("#events")).to_contain_text("No event yet")
    for number in range(5):
        deployment.send("alerts", anomaly(number, at_ms=deployment.now + number))
        expect(row(page, number)).to_be_visible(timeout=WITHIN_MS)
    deployment.send("alerts", anomaly(2, "ended", at_ms=deployment.now + 2))
    expect(row(page, 2)).not_to_contain_text("open", timeout=WITHIN_MS)
    expect(row(page, 3)).to_contain_text("open")
    expect(page.locator("#events li")).to_have_count(5)
    assert page.locator("#events li a").first.get_attribute("href").endswith(event_id(4))


@pytest.mark.parametrize("answer", ["events", "notices", "timeline"])
def test_news_outlive_an_older_answer(page, deployment, answer):
    def answer_late(route):
        old = route.fetch()
        assert old.json() == []
        deployment.send("alerts", anomaly(1, at_ms=deployment.now), health("yard"))
        wait_until(lambda: deployment.events() and deployment.get("/api/notices"))
        # The news of it, which nothing but the page can see.
        time.sleep(0.5)
        route.fulfill(response=old)

    page.route(f"**/api/{answer}*", answer_late, times=1)
    with page.expect_request_finished(lambda request: request.url.split("?")[0].endswith(f"/api/{answer}")):
        page.reload()
    page.wait_for_timeout(500)
    expect(row(page, 1)).to_be_visible()
    expect(page.locator("#notices")).to_contain_text("yard")
    expect(page.locator("#timeline-rows .bar")).to_have_count(1)


def test_the_heat_map_lies_over_the_snapshot_as_the_slider_says(page, deployment):
    alert = anomaly(1, snapshot=picture(jpeg(90, 160, 200)), heat_map=picture(jpeg(48, 64, 5)))
    opened(page, deployment, alert)
    wait_until(lambda: page.evaluate("[...document.querySelectorAll('.picture img')].every(one => one.naturalWidth)"))
    snapshot, heat = (page.locator(f".picture img{one}").bounding_box() for one in (":first-child", "#heat"))
    assert snapshot == heat
    assert snapshot["width"] / snapshot["height"] == pytest.approx(160 / 90, rel=0.02)
    assert opacity(page) == pytest.approx(0.6)
    page.locator("#heat-slider").fill("25")
    assert opacity(page) == pytest.approx(0.25)
    page.keyboard.press("m")
    wait_until(lambda: opacity(page) == 0)
    box = page.locator(".boxes rect").bounding_box()
    assert box["x"] - snapshot["x"] == pytest.approx(snapshot["width"] / 2, abs=4)


def test_a_verdict_reaches_the_topic_and_the_list(page, deployment):
    opened(page, deployment, anomaly(1))
    page.locator("#note").fill(HOSTILE)
    page.locator("#false-alarm").click()
    expect(row(page, 1)).to_contain_text("false alarm")
    page.locator("#detail").focus()
    page.keyboard.press("c")
    expect(row(page, 1)).to_contain_text("confirmed")
    consumer = SteadyConsumer(bootstrap_servers=deployment.broker.bootstrap_servers, auto_offset_reset="earliest")
    consumer.assign([TopicPartition(deployment.topics["feedback"], number) for number in (0, 1)])
    records = []
    while len(records) < 2:
        records += [one for part in consumer.poll(timeout_ms=200).values() for one in part]
    consumer.close()
    told = [Feedback.model_validate_json(one.value) for one in records]
    assert [(one.event_id, one.verdict) for one in told] == [(event_id(1), "false_alarm"), (event_id(1), "confirmed")]
    assert told[0].note == HOSTILE
    assert {one.key for one in records} == {b"door"}
    page.reload()
    expect(row(page, 1)).to_contain_text("confirmed")


def test_hostile_texts_stay_text(page, deployment):
    deployment.send("feedback", said(1, note=HOSTILE, by=HOSTILE))
    deployment.send("alerts", health(HOSTILE, number="h"), health("yard", number=HOSTILE))
    frames = {"topic": HOSTILE, "partition": 0, "first_offset": 1, "peak_offset": 2, "last_offset": 3}
    opened(page, deployment, anomaly(1, bundle=HOSTILE, frames=frames))
    shown = HOSTILE.replace("\u202e", "\\u202e")
    for place in ("#detail .facts", "#detail .verdict", "#cameras", "#notices"):
        expect(page.locator(place)).to_contain_text(shown, use_inner_text=True)
    page.locator("#cameras button", has_text="<img").click()
    expect(page.locator("#events")).to_contain_text("No event is like that")
    page.reload()
    expect(page.locator("#cameras")).to_contain_text("<img")
    assert page.evaluate("window.hit") is None
    assert page.locator("main img").count() == page.locator("img[src^='/api/events/']").count()
    assert page.locator("body script").count() == 0


def test_what_if_counts_what_the_server_counts(page, deployment):
    values = [4.0 if n % 40 < 6 else 1.0 for n in range(200)]
    deployment.send("scores", *(score(n, value, at_ms=deployment.now + n) for n, value in enumerate(values)))
    wait_until(lambda: deployment.get("/api/status")["cameras"])
    opened(page, deployment, anomaly(1, at_ms=deployment.now))
    expect(page.locator("#curve svg .line")).not_to_have_count(0)
    page.locator("#other").fill("2")
    counted = deployment.get("/api/what-if?threshold=2")["cameras"][0]["events"]
    assert counted == 5
    expect(page.locator("#answer .own td").first).to_have_text(str(counted))
    expect(page.locator("#curve .other text")).to_have_text("what if 2")
    page.locator("#other").fill("4.5")
    expect(page.locator("#answer .own td").first).to_have_text("0")
    page.locator("#other-reset").click()
    expect(page.locator("#curve .other")).to_have_count(0)


def test_filters_and_search_narrow_the_list(page, deployment):
    deployment.send("alerts", anomaly(1, severity="low"), anomaly(2, severity="critical", bundle="night"))
    deployment.send("alerts", anomaly(3, "ended", camera_id="yard"), camera_id="yard")
    expect(page.locator("#events li")).to_have_count(3)
    page.locator("#search").fill("night")
    expect(page.locator("#events li")).to_have_count(1)
    expect(row(page, 2)).to_be_visible()
    deployment.send("alerts", anomaly(4, bundle="night"))
    expect(row(page, 4)).to_be_visible()
    page.locator("#search").fill("")
    expect(page.locator("#events li")).to_have_count(4)
    page.locator("select[name=state]").select_option("ended")
    expect(page.locator("#events li")).to_have_count(1)
    page.locator("select[name=state]").select_option("")
    page.locator("#filter-camera").select_option("yard")
    expect(page.locator("#events li")).to_have_count(1)
    deployment.send("alerts", anomaly(5))
    deployment.send("alerts", anomaly(6, camera_id="yard"), camera_id="yard")
    expect(row(page, 6, "yard")).to_be_visible()
    expect(page.locator("#events li")).to_have_count(2)


def test_keys_lead_through_the_list(page, deployment):
    deployment.send("alerts", *(anomaly(number, at_ms=deployment.now + number) for number in range(4)))
    expect(page.locator("#events li")).to_have_count(4)
    shown = "location.hash"
    page.keyboard.press("j")
    assert page.evaluate(shown) == f"#/event/{event_id(3)}"
    page.keyboard.press("j")
    page.keyboard.press("ArrowDown")
    assert page.evaluate(shown) == f"#/event/{event_id(1)}"
    page.keyboard.press("k")
    assert page.evaluate(shown) == f"#/event/{event_id(2)}"
    expect(row(page, 2)).to_have_attribute("aria-current", "true")
    page.keyboard.press("Enter")
    expect(page.locator("#detail")).to_be_focused()
    page.keyboard.press("/")
    expect(page.locator("#search")).to_be_focused()
    page.keyboard.type("jkcf?")
    assert page.evaluate(shown) == f"#/event/{event_id(2)}", "typed text is no command"
    page.locator("#search").fill("")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#help")).to_be_hidden()
    page.keyboard.press("Escape")
    assert page.evaluate(shown) == "#/"
    assert all(one["said"] is None for one in deployment.events().values())


def test_an_address_leads_to_its_event_and_a_theme_is_remembered(page, deployment):
    deployment.send("alerts", anomaly(1))
    wait_until(deployment.events)
    go(page, deployment, f"#/event/{event_id(1)}")
    expect(page.locator("#detail h2")).to_have_text("door")
    times = page.locator("#detail time").first
    assert times.get_attribute("title").endswith("(UTC)")
    page.locator("#theme").click()
    page.locator("#theme").click()
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    go(page, deployment, f"#/event/{UNKNOWN}")
    expect(page.locator("#detail")).to_contain_text("it is not held")


def test_the_timeline_has_a_row_a_camera_and_a_bar_an_event(page, deployment):
    deployment.send("alerts", anomaly(1, at_ms=deployment.now - 600_000), anomaly(2, "ended", at_ms=deployment.now))
    deployment.send("alerts", anomaly(3, "ended", camera_id="yard", at_ms=deployment.now - 10**7), camera_id="yard")
    expect(page.locator("#timeline .lane:not(.axis)")).to_have_count(2)
    expect(page.locator("#timeline rect.bar")).to_have_count(2)
    page.get_by_role("button", name="day", exact=True).click()
    expect(page.locator("#timeline rect.bar")).to_have_count(3)
    page.locator(f"#timeline rect[data-id='{event_id(3, 'yard')}']").click()
    expect(page.locator("#detail h2")).to_have_text("yard")


def test_on_a_phone_nothing_is_wider_than_the_screen(page, deployment):
    page.set_viewport_size(PHONE)
    deployment.send("alerts", anomaly(1), health("x" * 128, number="h"))
    deployment.send("alerts", anomaly(2, camera_id="w" * 128), camera_id="w" * 128)
    fits = "document.documentElement.scrollWidth <= innerWidth"
    expect(row(page, 1)).to_be_visible()
    assert page.evaluate(fits)
    row(page, 1).click()
    expect(page.locator("#detail h2")).to_be_visible()
    expect(page.locator("#list")).to_be_hidden()
    assert page.evaluate(fits)
    page.locator(".back").click()
    for view, place in (("Timeline", "#timeline"), ("Cameras", "#side"), ("Events", "#list")):
        page.locator(".tabs").get_by_role("button", name=view).click()
        expect(page.locator(place)).to_be_visible()
        assert page.evaluate(fits), view


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(page, deployment, scheme):
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    deployment.send("feedback", said(2, "false_alarm", note="a cat"), said(3))
    deployment.send("scores", *(score(n, n % 5, at_ms=deployment.now + n) for n in range(50)))
    severities = ("low", "medium", "high", "critical")
    deployment.send("alerts", *(anomaly(n, at_ms=deployment.now + n, severity=one) for n, one in enumerate(severities)))
    deployment.send("alerts", health(), anomaly(5, "ended", snapshot=None))
    expect(page.locator("#events li")).to_have_count(5)
    expect(page.locator("#cameras button")).to_have_count(1)
    assert faults(page) == []
    row(page, 3).click()
    expect(page.locator("#curve svg")).to_be_visible()
    page.locator("#other").fill("2")
    expect(page.locator("#answer table")).to_be_visible()
    assert faults(page) == []
    page.set_viewport_size(PHONE)
    assert faults(page) == []
    page.locator(".back").click()
    assert faults(page) == []
    page.set_viewport_size({"width": 1440, "height": 900})
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    assert faults(page) == []
    page.goto(f"{deployment.address}/static/login.html")
    assert faults(page) == []


def faults(page):
    """Faults that axe calls serious or critical: rule and element."""
    source = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    page.evaluate(source)
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
    return [
        (fault["id"], json.dumps([node["html"][:200] for node in fault["nodes"]][:3]))
        for fault in found
        if fault["impact"] in {"serious", "critical"}
    ]
