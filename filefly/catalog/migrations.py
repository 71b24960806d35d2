"""Steps that bring an older catalog to the newest schema. A step, once released, is never changed.

Step N brings a catalog from schema version N to N + 1. A new catalog is made at the newest version at once.
"""

from collections.abc import Callable, Sequence

from sqlalchemy import Connection

_TO_VERSION_2 = """
CREATE TABLE data_servers_2 (
    key INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    address TEXT UNIQUE,
    advertised TEXT,
    registered BOOLEAN NOT NULL,
    placing BOOLEAN NOT NULL,
    storage_id TEXT UNIQUE,
    draining BOOLEAN DEFAULT 0 NOT NULL,
    displaced BOOLEAN DEFAULT 0 NOT NULL,
    scrub_begun INTEGER,
    scrub_hurry BOOLEAN DEFAULT 0 NOT NULL,
    scrub_generation INTEGER DEFAULT '0' NOT NULL,
    scrub_position INTEGER DEFAULT '0' NOT NULL,
    scrub_checked INTEGER DEFAULT '0' NOT NULL,
    scrub_total INTEGER DEFAULT '0' NOT NULL,
    scrub_bad INTEGER DEFAULT '0' NOT NULL,
    scrub_finished TEXT
);
INSERT INTO data_servers_2 (key, address, advertised, registered, placing)
    SELECT key, address, advertised, registered, placing FROM data_servers;
DROP TABLE data_servers;
ALTER TABLE data_servers_2 RENAME TO data_servers;

ALTER TABLE catalog ADD COLUMN suspended TEXT;
ALTER TABLE catalog ADD COLUMN backed_up INTEGER DEFAULT '0' NOT NULL;
ALTER TABLE plans ADD COLUMN touched INTEGER DEFAULT '0' NOT NULL;
ALTER TABLE plans ADD COLUMN resumes INTEGER;
ALTER TABLE plans ADD COLUMN due INTEGER;
UPDATE plans SET touched = (SELECT running_seconds FROM catalog);
CREATE INDEX plans_pending_touched ON plans (touched) WHERE state = 'pending';
CREATE INDEX plans_deleted_name ON plans (name) WHERE state = 'deleted';
CREATE INDEX plans_deleted_due ON plans (due) WHERE state = 'deleted';
ALTER TABLE replicas ADD COLUMN bad TEXT;
CREATE INDEX replicas_server ON replicas (server, generation, position);
ALTER TABLE trash ADD COLUMN aside BOOLEAN DEFAULT 0 NOT NULL;
DROP INDEX trash_due;
CREATE INDEX trash_server ON trash (server, due);
CREATE INDEX trash_block ON trash (block_id);
CREATE TABLE repairs (
    generation INTEGER NOT NULL,
    position INTEGER NOT NULL,
    remaining INTEGER NOT NULL,
    due INTEGER NOT NULL,
    PRIMARY KEY (generation, position)
) WITHOUT ROWID;
CREATE INDEX repairs_remaining ON repairs (remaining, due)
"""

_TO_VERSION_3 = """
ALTER TABLE plans ADD COLUMN holder TEXT;
CREATE TABLE quotas (
    prefix TEXT NOT NULL,
    max_bytes INTEGER,
    max_files INTEGER,
    used_bytes INTEGER NOT NULL,
    used_files INTEGER NOT NULL,
    open_bytes INTEGER NOT NULL,
    open_files INTEGER NOT NULL,
    PRIMARY KEY (prefix)
) WITHOUT ROWID;
CREATE TABLE revoked_tokens (
    token_id TEXT NOT NULL,
    revoked TEXT NOT NULL,
    PRIMARY KEY (token_id)
) WITHOUT ROWID
"""


def _identity_repair_and_undelete(connection: Connection) -> None:
    _run(connection, _TO_VERSION_2)


def _quotas_and_tokens(connection: Connection) -> None:
    _run(connection, _TO_VERSION_3)


def _run(connection: Connection, statements: str) -> None:
    for statement in statements.split(";"):
        connection.exec_driver_sql(statement)


MIGRATIONS: Sequence[Callable[[Connection], None]] = [_identity_repair_and_undelete, _quotas_and_tokens]
