-- The catalog: a projection that may be thrown away. Plain SQL that SQLite and PostgreSQL both read.
-- Moments are BIGINT microseconds since 1970 in UTC, LSNs are BIGINT, structures are JSON in TEXT.

CREATE TABLE catalog (
    id BIGINT NOT NULL PRIMARY KEY,
    rebuild_wanted TEXT,
    rebuild_error TEXT,
    rebuilt_from TEXT,
    rebuilt_at BIGINT
);

INSERT INTO catalog (id) VALUES (1);

CREATE TABLE projections (
    stream TEXT NOT NULL PRIMARY KEY,
    created BIGINT,
    applied_sequence BIGINT NOT NULL
);

CREATE TABLE instances (
    instance TEXT NOT NULL PRIMARY KEY,
    created_at BIGINT NOT NULL
);

CREATE TABLE branches (
    instance TEXT NOT NULL,
    branch TEXT NOT NULL,
    state TEXT NOT NULL,
    source_branch TEXT,
    restore_id TEXT,
    backup_id TEXT,
    fork_lsn BIGINT,
    fork_timeline BIGINT,
    timeline BIGINT NOT NULL,
    system_identifier TEXT NOT NULL,
    server_version BIGINT NOT NULL,
    wal_segment_size BIGINT NOT NULL,
    size TEXT,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (instance, branch)
);

CREATE TABLE schedules (
    instance TEXT NOT NULL,
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    cron TEXT NOT NULL,
    timezone TEXT NOT NULL,
    retention TEXT NOT NULL,
    branch TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (instance, id)
);

CREATE TABLE backups (
    instance TEXT NOT NULL,
    branch TEXT NOT NULL,
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    backup_type TEXT NOT NULL,
    status TEXT NOT NULL,
    triggered_by TEXT,
    schedule_id TEXT,
    requested_at BIGINT,
    started_at BIGINT,
    backed_up_at BIGINT,
    expires_at BIGINT,
    size_bytes BIGINT,
    logical_bytes BIGINT,
    files BIGINT,
    start_lsn BIGINT,
    stop_lsn BIGINT,
    timeline BIGINT,
    server_version BIGINT,
    damaged_pages TEXT NOT NULL,
    error TEXT,
    hint TEXT,
    worker TEXT,
    done_bytes BIGINT,
    total_bytes BIGINT,
    PRIMARY KEY (instance, branch, id)
);

CREATE INDEX backups_by_id ON backups (id);
CREATE INDEX backups_by_time ON backups (instance, requested_at);

CREATE TABLE restores (
    instance TEXT NOT NULL,
    branch TEXT NOT NULL,
    id TEXT NOT NULL,
    status TEXT NOT NULL,
    source_branch TEXT,
    target TEXT,
    size TEXT,
    backup_id TEXT,
    stop_lsn BIGINT,
    timeline BIGINT,
    last_commit_at BIGINT,
    host TEXT,
    port BIGINT,
    duration_ms BIGINT,
    phases TEXT NOT NULL,
    extensions TEXT NOT NULL,
    requested_at BIGINT,
    started_at BIGINT,
    completed_at BIGINT,
    error TEXT,
    hint TEXT,
    PRIMARY KEY (instance, branch, id)
);

CREATE INDEX restores_by_id ON restores (id);

CREATE TABLE wal_segments (
    instance TEXT NOT NULL,
    branch TEXT NOT NULL,
    timeline BIGINT NOT NULL,
    kind TEXT NOT NULL,
    segment TEXT NOT NULL,
    start_lsn BIGINT NOT NULL,
    end_lsn BIGINT NOT NULL,
    stored_bytes BIGINT NOT NULL,
    archived_at BIGINT NOT NULL,
    PRIMARY KEY (instance, branch, timeline, kind, segment)
);

CREATE INDEX wal_segments_by_lsn ON wal_segments (instance, branch, timeline, start_lsn);

CREATE TABLE wal_gaps (
    instance TEXT NOT NULL,
    branch TEXT NOT NULL,
    timeline BIGINT NOT NULL,
    from_lsn BIGINT NOT NULL,
    to_lsn BIGINT NOT NULL,
    cause TEXT NOT NULL,
    detected_at BIGINT NOT NULL,
    PRIMARY KEY (instance, branch, timeline, from_lsn)
);
