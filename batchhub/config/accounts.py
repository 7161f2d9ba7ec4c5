"""From a hub's name for a person to their account on a cluster: a table of exact names, and a template for everybody else."""

from __future__ import annotations

from collections.abc import Mapping

from batchhub.auth.base import safe_name
from batchhub.core.errors import BadInput, ConfigError, Denied
from batchhub.transport.shell import check_account


def check_accounts(template: str, accounts: Mapping[str, str], wide: bool, place: str) -> None:
    """What can be known at start. ``wide`` lets upper case and ``@`` pass in accounts. Raises ConfigError."""
    if "{username}" not in template and (template or not accounts):
        raise ConfigError(
            f"{place}: account {template!r} must hold {{username}}, or everybody would be the same person. To let in those of 'accounts' "
            "alone, say account = '' and fill that table."
        )
    owners: dict[str, str] = {}
    # Folded: to many directories (Active Directory, SSSD) "Smith" and "smith" are one account.
    for name, account in accounts.items():
        if not safe_name(name):
            raise ConfigError(f"{place}: accounts: {name[:64]!r} is not a name that the hub has for anybody.")
        try:
            check_account(account, wide)
        except (BadInput, Denied) as error:
            raise ConfigError(f"{place}: accounts of {name!r}: {error}") from error
        folded = account.casefold()
        if folded in owners:
            raise ConfigError(
                f"{place}: accounts: {owners[folded]!r} and {name!r} would both be {account!r}, and each could do as they like with the "
                "other's servers; give each an account."
            )
        owners[folded] = name


def owner_of(template: str, accounts: Mapping[str, str], account: str) -> str | None:
    """The hub's name whose account it is: :func:`account_of` the other way round. ``None`` for nobody's."""
    for name, given in accounts.items():
        if given == account:
            return name
    before, found, after = template.partition("{username}")
    if not found or not account.startswith(before) or not account.endswith(after):
        return None
    name = account[len(before) : len(account) - len(after)]
    # A name that the table gives another account, or that is in the template twice, has not this one.
    return (
        name if safe_name(name) and name not in accounts and template.replace("{username}", name) == account else None
    )


def account_of(template: str, accounts: Mapping[str, str], name: str, cluster: str) -> str:
    """The account of the hub's ``name``. Raises Denied for whoever has none, or would get one that the table gives to somebody else."""
    if name in accounts:
        return accounts[name]
    account = template.replace("{username}", name)
    if not account:
        raise Denied(f"{name} has no account on {cluster} that this hub knows of; the hub's admins can enter one.")
    if account.casefold() in {given.casefold() for given in accounts.values()}:
        raise Denied(
            f"The account {account} on {cluster} is another person's; the hub's admins can enter one for {name}."
        )
    return account
