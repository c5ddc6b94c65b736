"""What runs inside the two sandboxes when `Suite` grades: the suite's half and the program's half.

    sandbox of the suite                          host                    sandbox of the program
    main ──fork──> one test ──asks──────────────> relay ─────────────────> program ──fork──> one session
      │              │  <──────plain values, stand-ins for objects──────────────────────────────┘
      └──verdict──> the host                (wire: both ends)

Both run `python3` of any image, 3.8 or newer, on the standard library. The host sends the text of these
files; it imports none of them.
"""
