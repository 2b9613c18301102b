"""The client's protocol core: no input and output, no clock, no threads.

It is for the authors of shells, such as the package ``bellwire-twisted``, and may change in any release. See
`core.Core`.
"""
