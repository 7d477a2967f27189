"""``meshctl certs``: what is in force, what is served, and how it is replaced."""

import typer

from meshctl.cli.certs.listing import list_certificates, show_certificate
from meshctl.cli.certs.rescue import rescue_mesh
from meshctl.cli.certs.rotate import rotate_certificates
from meshctl.cli.certs.status import show_status

app = typer.Typer(help="Certificates: what is served, rotation, and rescue.", no_args_is_help=True)
app.command("list")(list_certificates)
app.command("show")(show_certificate)
app.command("status")(show_status)
app.command("rotate")(rotate_certificates)
app.command("rescue")(rescue_mesh)
