"""The mesh in a browser: one page on loopback for whoever started ``meshctl dashboard``.

sources   what there is to show, as streams of documents; the slow ones are asked less often
feed      the newest document of each topic, told to every open tab; a slow tab misses, never waits
past      signals of the last minutes, so that a new tab has its charts at once
guard     who may ask: the token, the cookie, Host and Origin, and what the browser may do
server    the HTTP routes, all of them reading
mesh      the sources of a real mesh
page/     the page itself: HTML, CSS and JavaScript modules as they are, no build

Nothing here changes the mesh, and the page asks no other server than this one.
"""
