"""Message handling against plain Node, its upper bound:
`python -m benchmarks.speed [rounds N] [throughput|first|memory|curves ...]`.
"""
