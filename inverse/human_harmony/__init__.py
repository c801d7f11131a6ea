"""Human Harmony: a data set of people in iHarmony4's layout, from photographs and the outlines of what they wear (SPEC §6)."""
