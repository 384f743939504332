use pg_format::Lsn;
use pg_format::wal::RelationFile;

use super::{After, Database, Names, Relation, RelationHistory, RelationKind, RelationMap};

fn relation(database: u32, oid: u32, name: &str, number: u32) -> Relation {
    Relation {
        database,
        oid,
        schema: "public".to_owned(),
        name: name.to_owned(),
        kind: RelationKind::Table,
        file: file(database, number),
        table: None,
    }
}

fn file(database: u32, number: u32) -> RelationFile {
    RelationFile {
        tablespace: 1663,
        database,
        number,
    }
}

fn map(as_of: u64, read: bool, relations: Vec<Relation>) -> RelationMap {
    let database = |oid, name: &str, read| Database {
        oid,
        name: name.to_owned(),
        read,
    };
    RelationMap {
        as_of: Lsn(as_of),
        databases: vec![database(5, "app", true), database(6, "other", read)],
        relations,
    }
}

/// Table 100 is dropped, 200 rewritten and renamed, 300 cannot be seen for a while; then a full map again.
fn histories() -> Vec<RelationHistory> {
    let first = map(
        1000,
        true,
        vec![
            relation(5, 100, "a", 100),
            relation(5, 200, "b", 200),
            relation(6, 300, "c", 300),
        ],
    );
    let mut history = RelationHistory::new(first);
    let mut push = |next: RelationMap| {
        let latest = history.latest();
        history.push(&latest, &next)
    };
    assert!(push(map(
        2000,
        true,
        vec![relation(5, 200, "b", 201), relation(6, 300, "c", 300)]
    )));
    assert!(push(map(3000, false, vec![relation(5, 200, "bb", 201)])));
    assert!(!push(map(3500, false, vec![relation(5, 200, "bb", 201)])));
    let second = map(4000, true, vec![relation(5, 200, "bb", 201)]);
    vec![RelationHistory::new(second), history]
}

#[test]
fn a_history_is_stored_and_read_back() {
    for history in histories() {
        let bytes = history.encode();
        assert_eq!(RelationHistory::decode(&bytes).unwrap(), history);
    }
}

#[test]
fn unknown_fields_are_ignored() {
    let text = concat!(
        "{\"v\":1,\"by\":\"x\"}\n",
        "{\"a\":\"0/10\",\"d\":[],\"z\":1,\"r\":[{\"d\":5,\"o\":1,\"s\":\"s\",\"n\":\"n\",\"k\":\"q\",\"f\":[1,2,3],\"z\":[]}]}\n",
    );
    let history = RelationHistory::decode(text.as_bytes()).unwrap();
    assert_eq!(history.full.relations[0].kind, RelationKind::Other);
}

#[test]
fn a_newer_format_is_refused() {
    let error = RelationHistory::decode(b"{\"v\":2}\n{}\n").unwrap_err();
    assert!(error.to_string().contains("format version 2"), "{error}");
}

#[test]
fn files_have_the_names_of_their_time() {
    let names = Names::new(histories());
    let check = |database, number, lsn, expected: Option<&str>| {
        let found = names.file_at(file(database, number), Lsn(lsn));
        assert_eq!(found.map(|relation| relation.name.as_str()), expected);
    };
    check(5, 100, 1500, Some("a"));
    // Known no more, and known too early: nothing else can have had that file.
    check(5, 100, 9000, Some("a"));
    check(5, 100, 10, Some("a"));
    check(5, 201, 2500, Some("b"));
    check(5, 201, 3000, Some("bb"));
    check(5, 999, 3000, None);
    assert_eq!(names.relation_at(5, 200, Lsn(2100)).unwrap().name, "b");
    assert_eq!(names.relation_at(5, 100, Lsn(2100)).unwrap().name, "a");
    assert_eq!(names.database_at(6, Lsn(1)), Some("other"));
    assert_eq!(names.database_at(7, Lsn(1)), None);
}

#[test]
fn the_first_map_after_tells_what_became_of_it() {
    let names = Names::new(histories());
    assert_eq!(names.after(5, 100, Lsn(1001)), After::Gone);
    let there = |after: After<'_>| match after {
        After::There(relation) => relation.file.number,
        other => panic!("{other:?}"),
    };
    assert_eq!(there(names.after(5, 100, Lsn(1000))), 100);
    assert_eq!(there(names.after(5, 200, Lsn(1001))), 201);
    // The map at 3000 could not see its database; the one at 4000 could.
    assert_eq!(names.after(6, 300, Lsn(2001)), After::Unknown);
    assert_eq!(names.after(6, 300, Lsn(3001)), After::Gone);
    assert_eq!(names.after(5, 200, Lsn(4001)), After::Unknown);
}
