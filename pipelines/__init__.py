"""Prefect over DVC: runs the graph that dvc.yaml declares; the only place that imports either."""
