"""Figures and decisions from scores and labels: mAP and CMC, fusion, thresholds."""
