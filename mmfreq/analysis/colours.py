"""Colours and markers of lines, for every plot."""

# Okabe and Ito's colours, which differ for every kind of colour vision; yellow is left out, as it hardly shows on white
LINES = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#56B4E9', '#E69F00', '#000000')
MARKERS = 'osD^vPX'
