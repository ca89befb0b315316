"""The wire: what other programs read. Key names, fields, formats and lifetimes live in this package and nowhere else.

``codecs`` says how one value becomes text, ``schema`` what a table is, ``tables`` holds every table, ``reading`` is the
three-state result of looking something up.
"""
