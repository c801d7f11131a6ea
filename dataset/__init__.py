"""iHarmony4 on disk: its layout, lists and pairs, predictions beside it (SPEC §7)."""
