"""Who shares what."""

from __future__ import annotations

from migrate.report.document import Report
from migrate.report.savings import LayerUsers, rank_repositories


def test_shares_of_an_image_add_up(report: Report) -> None:
    use = LayerUsers(report)
    shares = {image.title: use.share(image) for image in report.images}
    web = shares["acme/web:1"]
    assert (web.own, web.shared, web.merged) == (300_000, 0, 4_000_000)
    app = shares["acme/app:1"]
    assert (app.own, app.shared, app.merged) == (0, 0, 4_010_000)
    assert app.total == 4_010_000


def test_repositories(report: Report) -> None:
    web, app = rank_repositories(report)
    assert (web.name, web.images, web.before_bytes, web.after_bytes) == ("acme/web", 1, 4_301_024, 4_300_000)
    assert web.elsewhere_bytes == 4_000_000
    assert web.saved_bytes == 1024
    assert (app.name, app.images, app.saved_bytes) == ("acme/app", 1, 0)
    assert app.elsewhere_bytes == 4_010_000  # the untagged image stands on the same two contents
