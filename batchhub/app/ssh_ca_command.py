"""``batchhub ssh-ca``: the authority that signs what the hub and the proxy sign in to clusters with."""

from __future__ import annotations

import sys
from typing import ClassVar

from batchhub.app.command import Command, say
from batchhub.app.own_deeds import note_chore
from batchhub.app.ssh_ca import AuthorityFiles
from batchhub.config import traits
from batchhub.core.deeds import DeedKind
from batchhub.core.errors import BadInput


class SshCaCommand(Command):
    """The SSH authority's chores."""

    name = "batchhub ssh-ca"
    arguments = "create|print|rotate|finish|revoke USER…|restore USER…"
    unlisted: ClassVar[frozenset[str]] = frozenset({"ip", "port"})
    description = (
        "The authority for clusters with sign_in = 'ca' in their table 'ssh'. `create` makes its key in state_dir; `print` shows what sshd "
        "needs; `rotate` makes the next key, and `finish`, once every sshd trusts both, signs with it and forgets the old one; `revoke` puts SSH "
        "users on the list that sshd's RevokedKeys reads, `restore` takes them off it."
    )

    def act(self) -> None:
        """What the class says."""
        what, *names = self.extra_args or [""]
        files = AuthorityFiles(self.state())
        chores = {"create": files.create, "print": None, "rotate": files.rotate, "finish": files.finish}
        lists = {"revoke": files.revoke, "restore": files.restore}
        if what in lists:
            if not names:
                raise BadInput(f"batchhub ssh-ca {what} needs at least one SSH user's name.")
            lists[what](names)
            self._note(f"{what} {' '.join(names)}")
            say(f"{files.revoked} is written. Copy it to every sshd, as what RevokedKeys names.")
            return
        if what not in chores or names:
            raise BadInput(f"batchhub ssh-ca {self.arguments}")
        chore = chores[what]
        if chore is not None:
            chore()
            self._note(what)
        sys.stdout.write(_PAGE.format(keys="\n".join(files.public_lines())))
        if files.names():
            sys.stdout.write(_LIST.format(revoked=files.revoked))

    def _note(self, words: str) -> None:
        note_chore(self.trait(traits.BatchHub).db_url or self.state().database, DeedKind.SSH_CA, words)


_PAGE = """\
# /etc/ssh/batchhub_ca.pub, on login nodes (and on compute nodes, for tunnels of kind node):
{keys}

# The end of /etc/ssh/sshd_config there. PEOPLE is the group of those who use the hub; the hub's own account there must be in it too.
# Without AuthorizedPrincipalsFile a certificate opens the one account it names; if you have that setting, it must list the account itself.
# /etc/ssh/batchhub_revoked must exist, else sshd refuses everybody: an empty file, or what `batchhub ssh-ca revoke` writes.
#Match User root
#    TrustedUserCAKeys none
#Match Group PEOPLE
#    TrustedUserCAKeys /etc/ssh/batchhub_ca.pub
#    RevokedKeys /etc/ssh/batchhub_revoked
"""

_LIST = """
# Somebody is revoked: what RevokedKeys names must be {revoked} as it is now.
# A list knows the keys that there were when it was written, so copy it again during a rotation, before `batchhub ssh-ca finish`.
"""
