use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

use super::*;

#[track_caller]
fn good(dsn: &str) -> ConnectionSettings {
    ConnectionSettings::parse(dsn).unwrap_or_else(|error| panic!("{dsn}: {error}"))
}

/// user, password, host, port, database
#[track_caller]
fn check(dsn: &str, expected: (&str, Option<&str>, &str, u16, &str)) {
    let settings = good(dsn);
    let password = settings
        .password
        .as_ref()
        .map(|password| password.0.as_str());
    let seen = (
        settings.user(),
        password,
        settings.host(),
        settings.port(),
        settings.dbname(),
    );
    assert_eq!(seen, expected, "{dsn}");
    assert_eq!(
        good(&settings.to_uri()),
        settings.with_dbname(expected.4),
        "round trip of {dsn}"
    );
}

#[test]
fn what_libpq_accepts() {
    check("postgres://u@h", ("u", None, "h", 5432, "u"));
    check(
        "postgresql://u:p@h:5433/d",
        ("u", Some("p"), "h", 5433, "d"),
    );
    check("postgresql://u:@h:/", ("u", None, "h", 5432, "u"));
    check("  postgres://u:p@h/d\n", ("u", Some("p"), "h", 5432, "d"));
    check(
        "postgres://u%40x:p%3Aq%2Fr%25@h/d%20e",
        ("u@x", Some("p:q/r%"), "h", 5432, "d e"),
    );
    // A colon, a question mark and a plus in a password need no escape.
    check("postgres://u:p:q@h/d", ("u", Some("p:q"), "h", 5432, "d"));
    check(
        "postgres://u:p?x=1@h/d",
        ("u", Some("p?x=1"), "h", 5432, "d"),
    );
    check(
        "postgres://u:a+b#c@h/d",
        ("u", Some("a+b#c"), "h", 5432, "d"),
    );
    check("postgres://u@[::1]:6000/d", ("u", None, "::1", 6000, "d"));
    check(
        "postgres://u@[2001:db8::1]/d",
        ("u", None, "2001:db8::1", 5432, "d"),
    );
    check(
        "postgres://u@%2Fvar%2Frun/d",
        ("u", None, "/var/run", 5432, "d"),
    );
    check(
        "postgres:///d?host=/tmp&user=u&port=6",
        ("u", None, "/tmp", 6, "d"),
    );
    check(
        "postgres://?host=h&user=u&password=p&dbname=d",
        ("u", Some("p"), "h", 5432, "d"),
    );
    // What stands behind the question mark wins, and the last of two.
    check(
        "postgres://u@h:1/d?host=i&port=2&port=3",
        ("u", None, "i", 3, "d"),
    );
    check("postgres://u@h?dbname=x", ("u", None, "h", 5432, "x"));
    check("postgres://u@h/d?", ("u", None, "h", 5432, "d"));
    check("postgres://ü:pä@h/d", ("ü", Some("pä"), "h", 5432, "d"));
    // As the managed services print them.
    check(
        "postgresql://own:npg_x@ep-a-b.eu.aws.example.org/neondb?sslmode=require&channel_binding=require",
        (
            "own",
            Some("npg_x"),
            "ep-a-b.eu.aws.example.org",
            5432,
            "neondb",
        ),
    );
    check(
        "postgres://postgres.ref:pw@aws-0-eu.pooler.example.com:6543/postgres",
        (
            "postgres.ref",
            Some("pw"),
            "aws-0-eu.pooler.example.com",
            6543,
            "postgres",
        ),
    );
}

#[test]
fn parameters() {
    let ssl = |query: &str| {
        let settings = good(&format!("postgres://u@h/d?{query}"));
        (
            settings.sslmode,
            settings.sslrootcert,
            settings.channel_binding,
        )
    };
    let file = |path: &str| Some(RootCertificates::File(path.into()));
    let (prefer, require) = (ChannelBinding::Prefer, ChannelBinding::Require);
    assert_eq!(ssl(""), (SslMode::Prefer, None, prefer));
    assert_eq!(ssl("sslmode=allow"), (SslMode::Prefer, None, prefer));
    assert_eq!(ssl("sslmode=disable"), (SslMode::Disable, None, prefer));
    assert_eq!(ssl("ssl=true"), (SslMode::Require, None, prefer));
    assert_eq!(
        ssl("sslmode=verify-ca&sslrootcert=%2Fetc%2Fca.pem&channel_binding=require"),
        (SslMode::VerifyCa, file("/etc/ca.pem"), require)
    );
    assert_eq!(
        ssl("sslrootcert=system"),
        (SslMode::VerifyFull, Some(RootCertificates::System), prefer)
    );
    let timeout = |query: &str| good(&format!("postgres://u@h/d?{query}")).connect_timeout();
    assert_eq!(timeout("connect_timeout=3"), Duration::from_secs(3));
    assert_eq!(timeout("connect_timeout=0"), DEFAULT_CONNECT_TIMEOUT);
    assert_eq!(timeout("connect_timeout=-1"), DEFAULT_CONNECT_TIMEOUT);
    assert_eq!(good("postgres://u@h").application_name(), "zektor");
    assert_eq!(
        good("postgres://u@h?application_name=a%20b").application_name(),
        "a b"
    );
    let everything = "postgresql://u:p@h:1/d?sslmode=verify-full&sslrootcert=%2Fca.pem\
                      &channel_binding=disable&application_name=a&connect_timeout=4";
    assert_eq!(good(everything).to_uri(), everything);
}

#[test]
fn what_is_refused_and_never_repeated() {
    use DsnError::*;
    let bad_value = |error: &DsnError| matches!(error, BadValue { .. });
    for (dsn, expected) in [
        ("", NotAUri),
        ("host=h user=u password=secret", NotAUri),
        ("mysql://u:secret@h", NotAUri),
        ("Postgres://u:secret@h", NotAUri),
        ("postgres://h/d", NoUser),
        ("postgres://:secret@h/d", NoUser),
        ("postgres://u:secret@/d", NoHost),
        ("postgres://u:secret@a,b/d", ManyHosts),
        ("postgres://u:secret@a:1,b:2/d", ManyHosts),
        ("postgres://u@h/d?host=a,b", ManyHosts),
        ("postgres://u@h:1/d?port=1,2", ManyHosts),
        // A password with a reserved character in it.
        ("postgres://u:x@secret@h/d", BadHost),
        ("postgres://u:p@ss/w:rd#1@h:5432/d", BadHost),
        ("postgres://u:secret/x@h/d", BadHost),
        ("postgres://u:x%zzsecret@h/d", BadEscape),
        ("postgres://u:x%secret@h/d", BadEscape),
        ("postgres://u:x%00@h/d", BadEscape),
        ("postgres://u:x%ff@h/d", BadEscape),
        ("postgres://u:x%4", BadEscape),
        ("postgres://u@h:0/d", BadPort),
        ("postgres://u@h:65536/d", BadPort),
        ("postgres://u@h:12x/d", BadPort),
        ("postgres://u@[::1/d", BadHost),
        ("postgres://u@[secret]/d", BadHost),
        ("postgres://u@[::1]x/d", BadHost),
        ("postgres://u@h ost/d", BadHost),
        ("postgres://u@h/d?sslmode", BadQuery),
        ("postgres://u@h/d?options=endpoint=secret", BadQuery),
        ("postgres://u@h/d?sslmode=require&", BadQuery),
        (
            "postgres://u@h/d?pgbouncer=true",
            UnknownParameter("pgbouncer".into()),
        ),
        (
            "postgres://u@h/d?sslcert=secret",
            UnknownParameter("sslcert".into()),
        ),
        (
            "postgres://u@h/d?SSLMODE=require",
            UnknownParameter("SSLMODE".into()),
        ),
        (
            "postgres://u@h/d?%2Fse%20cret=x",
            UnknownParameter("(unreadable name)".into()),
        ),
    ] {
        let error = ConnectionSettings::parse(dsn).expect_err(dsn);
        assert!(!error.to_string().contains("secret"), "{error}");
        assert_eq!(error, expected, "{dsn}");
    }
    for query in [
        "sslmode=on",
        "ssl=1",
        "sslrootcert=",
        "channel_binding=yes",
        "connect_timeout=1s",
        "sslmode=require&sslrootcert=system",
    ] {
        let error = ConnectionSettings::parse(&format!("postgres://u@h/d?{query}")).unwrap_err();
        assert!(bad_value(&error), "{query}: {error}");
    }
}

#[test]
fn the_password_stays_inside() {
    let settings = good("postgres://u:s%65cret@h:1/d?sslmode=require");
    assert_eq!(
        settings.redacted(),
        "postgresql://u:***@h:1/d?sslmode=require"
    );
    assert_eq!(settings.to_string(), settings.redacted());
    assert_eq!(
        format!("{settings:?}"),
        "ConnectionSettings(postgresql://u:***@h:1/d?sslmode=require)"
    );
    assert_eq!(
        good("postgres://u@h/d").redacted(),
        "postgresql://u@h:5432/d"
    );
    assert_eq!(
        good("postgres://u:p@h?host=/run/pg").to_uri(),
        "postgresql://u:p@/u?host=%2Frun%2Fpg&port=5432"
    );
}

#[test]
fn changed_copies() {
    let settings = good("postgres://u:p@h/d")
        .with_dbname("e")
        .with_application_name("worker");
    assert_eq!(
        settings.to_uri(),
        "postgresql://u:p@h:5432/e?application_name=worker"
    );
}

proptest! {
    #[test]
    fn never_panics(text: String) {
        let _ = ConnectionSettings::parse(&text);
        let _ = ConnectionSettings::parse(&format!("postgres://{text}"));
    }

    #[test]
    fn any_text_survives_the_uri(
        user in "[^\0]{1,8}", password in "[^\0]{1,8}", dbname in "[^\0]{1,8}", port in any::<u16>(),
    ) {
        let mut settings = good("postgres://u:p@h/d");
        settings.user = user;
        settings.password = Some(Password(password));
        settings.dbname = Some(dbname);
        settings.port = port.max(1);
        prop_assert_eq!(&good(&settings.to_uri()), &settings);
        settings.password = Some(Password("\u{1F512}".into()));
        let shown = format!("{settings} {settings:?}");
        prop_assert!(!shown.contains("%F0%9F%94%92"));
    }
}
