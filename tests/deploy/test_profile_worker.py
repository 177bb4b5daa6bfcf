from deploy.profile_worker import operator_shares, page, shares

STACKS = [
    "thread (0x1);_work (worker/pipeline.py:90);score (/x/contract/runtime.py:80);run (/y/onnxruntime/session.py:9) 60",
    "thread (0x2);run (threading.py:1);decode_frame (/x/contract/frame.py:5) 20",
    "thread (0x2);take (worker/engine.py:7);measure (/x/contract/motion.py:3) 10",
    "main;poll (/x/worker/loop.py:3);poll (/y/kafka/consumer/group.py:5) 6",
    "main;poll (/x/worker/loop.py:3);dumps (/usr/json/__init__.py:5) 3",
    "main;run (threading.py:5) 1",
    "crew_1;_worker (concurrent/futures/thread.py:81) 500",
    "silence;SilenceWatch._watch (worker/telemetry.py:183);Condition.wait (threading.py:331) 400",
    "telemetry;_PollLikeSelector.select (selectors.py:415) 300",
]


def test_a_look_belongs_to_the_innermost_part_that_is_ours_or_the_clients():
    assert shares(STACKS) == [
        ("model", 0.6), ("decoding", 0.2), ("motion", 0.1), ("Kafka client", 0.06), ("worker/loop.py, poll", 0.03),
        ("the interpreter and libraries", 0.01),
    ]  # fmt: skip


def test_operators_are_those_of_nodes():
    events = [
        {"cat": "Session", "name": "run", "dur": 1000},
        {"cat": "Node", "name": "a_kernel_time", "args": {"op_name": "Conv"}, "dur": 30},
        {"cat": "Node", "name": "b_kernel_time", "args": {"op_name": "Conv"}, "dur": 45},
        {"cat": "Node", "name": "b_fence_before", "args": {"op_name": "Conv"}, "dur": 45},
        {"cat": "Node", "name": "c_kernel_time", "args": {"op_name": "MatMul"}, "dur": 25},
    ]
    assert operator_shares(events) == [("Conv", 0.75), ("MatMul", 0.25)]


def test_the_page_tells_the_shares():
    told = {
        "versions": {"python": "3.11"}, "cores": 2, "preset": "balanced", "precision": "fp32",
        "parts": {"model": 0.6, "decoding": 0.2}, "operators": {"Conv": 0.75},
    }  # fmt: skip
    lines = page(told).splitlines()
    assert "| model | 60.0% |" in lines
    assert "| Conv | 75.0% |" in lines
