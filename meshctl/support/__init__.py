"""What somebody who helps has to see of a mesh: collected by a list, scrubbed, in one archive.

``scrub`` takes secrets out of bytes, ``items`` is the list, ``collect`` asks the hosts, ``archive``
writes what came of it.
"""
