use super::Expression;

fn normal(text: &str) -> String {
    text.parse::<Expression>()
        .map_or_else(|error| error.to_string(), |read| read.to_string())
}

#[test]
fn texts_become_normal() {
    let check = |text: &str, expected: &str| {
        assert_eq!(normal(text), expected, "{text:?}");
        assert_eq!(normal(expected), expected, "it reads back");
    };
    check("30 2 * * *", "30 2 * * *");
    check("  05\t02  * *  * ", "5 2 * * *");
    check("*/15 */1 ? * ?", "*/15 * * * *");
    check(
        "0,30,15 8-18/2 * jan,Mar-MAY Mon-fri",
        "0,30,15 8-18/2 * 1,3-5 1-5",
    );
    check("0 0 * * 7", "0 0 * * 0");
    check("0 0 * * SUN,sat-sun", "0 0 * * 0,6-7");
    check("0 0 * * SUN-TUE", "0 0 * * 0-2");
    check("0 0 L,15 * *", "0 0 L,15 * *");
    check("0 0 30l feb *", "0 0 30L 2 *");
    check("0 0 29 2 *", "0 0 29 2 *");
    check("0 0 30 2 MON", "0 0 30 2 1");
    check("@hourly", "0 * * * *");
    check("@Daily", "0 0 * * *");
    check("@midnight", "0 0 * * *");
    check("@weekly", "0 0 * * 0");
    check("@monthly", "0 0 1 * *");
    check("@yearly", "0 0 1 1 *");
    check("@annually", "0 0 1 1 *");
}

#[test]
fn what_cannot_be_read_says_where_and_what_is_allowed() {
    let check = |text: &str, expected: &str| assert_eq!(normal(text), expected);
    let five = "but a schedule has five: minute, hour, day of month, month and day of week, like \
                \"30 2 * * *\" (there are no seconds)";
    check("", &format!("\"\" has 0 fields, {five}"));
    check(
        "0 30 2 * * *",
        &format!("\"0 30 2 * * *\" has 6 fields, {five}"),
    );
    check(
        "@reboot",
        "\"@reboot\" is not known; allowed are @hourly, @daily, @midnight, @weekly, @monthly, @yearly and \
         @annually, or five fields like \"30 2 * * *\"",
    );
    let minutes =
        |item: &str| format!("the minute field cannot have {item:?}: allowed are 0 to 59");
    for item in [
        "60",
        "-1",
        "",
        "+5",
        "a",
        "1.5",
        "MON",
        "L",
        "٣",
        "999999999999",
        "1-2-3",
    ] {
        check(
            &format!("{} * * * *", if item.is_empty() { "1," } else { item }),
            &minutes(item),
        );
    }
    check(
        "0 24 * * *",
        "the hour field cannot have \"24\": allowed are 0 to 23",
    );
    let days =
        "1 to 31, L (the last day), and 29L, 30L or 31L (that day, or the last of a shorter month)";
    for item in ["0", "32", "28L", "LL", "15W", "L-3", "32L"] {
        check(
            &format!("0 0 {item} * *"),
            &format!("the day-of-month field cannot have {item:?}: allowed are {days}"),
        );
    }
    check(
        "0 0 * 13 *",
        "the month field cannot have \"13\": allowed are 1 to 12 or JAN to DEC",
    );
    for item in ["8", "5L", "5#2", "MONDAY"] {
        check(
            &format!("0 0 * * {item}"),
            &format!(
                "the day-of-week field cannot have {item:?}: allowed are 0 to 7 (0 and 7 are Sunday) or SUN \
                 to SAT"
            ),
        );
    }
}

#[test]
fn ranges_and_steps_that_mislead_are_refused() {
    let check = |text: &str, expected: &str| assert_eq!(normal(text), expected);
    check(
        "0 22-5 * * *",
        "the hour field cannot have \"22-5\": a range goes from the smaller to the larger; write \
         22-23,0-5",
    );
    check(
        "0 0 * * FRI-MON",
        "the day-of-week field cannot have \"FRI-MON\": a range goes from the smaller to the larger; write \
         5-6,0-1",
    );
    assert_eq!(normal("0 0 * * 5-6,0-1"), "0 0 * * 5-6,0-1");
    check(
        "5/15 * * * *",
        "the minute field cannot have \"5/15\": a step needs a range or *; write 5-59/15 for every 15 from \
         5 on",
    );
    for item in ["*/0", "*/90", "*/", "*/x", "*/5/5"] {
        check(
            &format!("{item} * * * *"),
            &format!("the minute field cannot have {item:?}: a step here is 1 to 59"),
        );
    }
    check(
        "0 0 L/2 * *",
        "the day-of-month field cannot have \"L/2\": a last day has no step",
    );
}

#[test]
fn what_never_fires_is_refused() {
    for text in [
        "0 0 30 2 *",
        "0 0 31 2,4,6,9,11 *",
        "0 0 30-31 FEB ?",
        "0 0 31 4 */2",
    ] {
        let error = text.parse::<Expression>().unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "{:?} never fires: none of its months has such a day",
                text.replace("FEB ?", "2 *")
            )
        );
    }
    assert_eq!(normal("0 0 30L 2 *"), "0 0 30L 2 *");
}
