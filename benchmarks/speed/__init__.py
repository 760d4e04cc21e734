"""How fast messages are handled, against what nothing here can beat: `python -m benchmarks.speed
[rounds N] [throughput|first|memory|curves ...]`.
"""
