"""Message handling against plain Node, its upper bound:
`python -m benchmarks.speed [rounds N] [throughput|lag|first|memory|curves ...]`.
"""
