"""Who the residents are: attributes that only text can reveal, and the phrases that give them away."""

from __future__ import annotations

from dataclasses import dataclass

from datamodules.demo.town import stream

TEXT_ONLY = ("Gender", "Age", "Industry", "Occupation", "Education Level", "Life Stage")
UNKNOWN_RATE = 0.15  # an attribute that is unknown is never given away


@dataclass(frozen=True)
class Job:
    """An occupation: its industry, the schooling it asks for, the ages of those who hold it, what they say."""

    industry: str
    education: tuple[str, ...]
    ages: tuple[str, ...]
    lines: tuple[str, ...]


AGES = ("18-24", "25-34", "35-49", "50-64", "65+")
_WORKING = ("25-34", "35-49", "50-64")
JOBS: dict[str, Job] = {
    "Nurse": Job(
        "Healthcare",
        ("Bachelor",),
        _WORKING,
        (
            "Came in on my break from the hospital ward.",
            "After twelve hours on the ward I needed to sit down.",
            "I was still wearing my scrubs and nobody minded.",
        ),
    ),
    "Doctor": Job(
        "Healthcare",
        ("Postgraduate",),
        _WORKING,
        (
            "My pager stayed quiet for once, my patients must be sleeping.",
            "I squeezed this in between two rounds at the clinic.",
            "As a physician I probably should have had the salad.",
        ),
    ),
    "Teacher": Job(
        "Education",
        ("Bachelor", "Postgraduate"),
        _WORKING,
        (
            "I brought a pile of essays to grade.",
            "After a day with thirty fourth graders I wanted quiet.",
            "One of my pupils waved at me from the next table.",
        ),
    ),
    "Student": Job(
        "Education",
        ("High School", "Bachelor"),
        ("18-24",),
        (
            "I came straight from the lecture hall with my backpack.",
            "Finals are next week so I brought my notes.",
            "My dorm is two streets away.",
        ),
    ),
    "Software Engineer": Job(
        "Technology",
        ("Bachelor", "Postgraduate"),
        _WORKING,
        (
            "I fixed a bug on my laptop while I waited.",
            "Our whole sprint team needed to get out of the office.",
            "We had just shipped the release, so I was allowed out.",
        ),
    ),
    "Data Analyst": Job(
        "Technology",
        ("Bachelor", "Postgraduate"),
        ("25-34", "35-49"),
        (
            "I spend all day in spreadsheets and dashboards, so a change of view helps.",
            "Naturally I made a mental chart of the waiting times, it is my job after all.",
            "A query was still running at work when I left.",
        ),
    ),
    "Accountant": Job(
        "Finance",
        ("Bachelor",),
        _WORKING,
        (
            "Tax season has eaten my weeks.",
            "I checked the bill twice, I keep books for a living.",
            "My clients' ledgers could wait an hour.",
        ),
    ),
    "Electrician": Job(
        "Construction",
        ("High School", "Some College"),
        _WORKING,
        (
            "I had been rewiring a kitchen all day.",
            "My van with the cable drums was outside.",
            "I noticed the fuse box first, that is the trade.",
        ),
    ),
    "Carpenter": Job(
        "Construction",
        ("High School", "Some College"),
        _WORKING,
        (
            "Still had sawdust on my boots from the building site.",
            "I build staircases, so I looked at the joints of the bench.",
            "We had finished framing a roof that day.",
        ),
    ),
    "Shop Assistant": Job(
        "Retail",
        ("High School", "Some College"),
        ("18-24", "25-34", "35-49"),
        (
            "I had been on the till since early and my feet hurt.",
            "My shift on the shop floor had just ended.",
            "After a stock take all I want is a chair.",
        ),
    ),
    "Chef": Job(
        "Hospitality",
        ("High School", "Some College"),
        ("25-34", "35-49"),
        (
            "I run a kitchen line myself, so I watch the pass.",
            "On my one night away from my own stove I came here.",
            "Cooks like me eat standing up, so a chair was a treat.",
        ),
    ),
    "Lawyer": Job(
        "Legal",
        ("Postgraduate",),
        _WORKING,
        (
            "Court was adjourned early, so I had time.",
            "I read a brief at the table, old habit.",
            "My client settled, and I felt like going out.",
        ),
    ),
    "Retired": Job(
        "Retired",
        ("High School", "Some College", "Bachelor", "Postgraduate"),
        ("65+",),
        (
            "Now that I no longer work I have time for these things.",
            "Since I drew my pension I come out more.",
            "Retirement suits me, I can sit for hours.",
        ),
    ),
}
GENDER_LINES: dict[str, tuple[str, ...]] = {
    "Female": (
        "My husband says I am a woman of habit.",
        "We were four sisters at one table, us girls and the gossip.",
        "As a mother and a wife I get few hours to myself.",
        "The waiter called me ma'am.",
        "I was the only lady at the bar.",
    ),
    "Male": (
        "My wife says I am a man of habit.",
        "Just the guys and me, four men at one table.",
        "Dad duty kept me away for a while, so this man was ready.",
        "The waiter called me sir.",
        "I was the only bloke at the bar with a beard like mine.",
    ),
}
AGE_LINES: dict[str, tuple[str, ...]] = {
    "18-24": (
        "I just turned twenty one, so this was new to me.",
        "They asked for my ID, fair, I am nineteen going on twelve.",
        "My roommates and I are barely out of our teens.",
    ),
    "25-34": (
        "I turn thirty this year and feel it.",
        "My friends and I are all in our late twenties now.",
        "Ten years after high school we finally met again.",
    ),
    "35-49": (
        "At forty I know what I like.",
        "My twenty-year school reunion was that week.",
        "I am in my forties and need my reading glasses for the small print, apparently.",
    ),
    "50-64": (
        "I have eaten in this street for over thirty years.",
        "I celebrated my fifty-fifth last month.",
        "At nearly sixty I take my time.",
    ),
    "65+": (
        "At seventy two I do not rush.",
        "My old knees were glad of the ramp.",
        "They gave me the seniors' chair with the arms.",
    ),
}
EDUCATION_LINES: dict[str, tuple[str, ...]] = {
    "High School": (
        "I went to work straight out of high school and never looked back.",
        "My old high school class, the only school I ever finished, meets here.",
        "I never went to college, but I can read a bill.",
    ),
    "Some College": (
        "I dropped out of college after a year, and we talked about that.",
        "The night classes at the community college start at six.",
        "I left university before the degree and have no regrets.",
    ),
    "Bachelor": (
        "I ran into someone from my bachelor's course.",
        "I wore my college graduation sweater.",
        "We used to live on noodles when I was doing my undergraduate degree.",
    ),
    "Postgraduate": (
        "Back when I was in grad school I lived on food like this.",
        "I wrote half my thesis at tables like that.",
        "My old PhD supervisor was at the next table.",
    ),
}
LIFE_LINES: dict[str, tuple[str, ...]] = {
    "Single": (
        "I live alone and came alone.",
        "Third date this month, still single.",
        "Table for one, as always, I like my own company.",
    ),
    "Couple": (
        "My partner and I share everything we order.",
        "It was our anniversary, just the two of us.",
        "We moved in together last spring and this is our local.",
    ),
    "Young Family": (
        "We came with our two toddlers.",
        "They found a high chair for the baby.",
        "The stroller fit beside the table.",
    ),
    "Parents of Teens": (
        "Our teenagers looked at their phones throughout.",
        "My son has his driving test and talks of nothing else.",
        "We had to be home before the kids' soccer practice at the high school.",
    ),
    "Empty Nest": (
        "The kids have moved out, so we eat out.",
        "With the house empty since our youngest left, we go out.",
        "Our grown daughter called from her new flat.",
    ),
}
_STAGES = {
    "18-24": ("Single", "Couple"),
    "25-34": ("Single", "Couple", "Young Family"),
    "35-49": ("Single", "Couple", "Young Family", "Parents of Teens"),
    "50-64": ("Couple", "Parents of Teens", "Empty Nest"),
    "65+": ("Couple", "Empty Nest"),
}


def make_person(seed: int, index: int) -> dict[str, str]:
    """Text-only attributes of user `index`: consistent with one another, some "Unknown"."""
    rng = stream(seed, "person", index)
    age = rng.choices(AGES, (0.18, 0.27, 0.25, 0.18, 0.12))[0]
    occupation = rng.choice([name for name, job in JOBS.items() if age in job.ages])
    job = JOBS[occupation]
    person = {
        "Gender": rng.choice(("Female", "Male")),
        "Age": age,
        "Industry": job.industry,
        "Occupation": occupation,
        "Education Level": rng.choice(job.education),
        "Life Stage": rng.choice(_STAGES[age]),
    }
    for name in TEXT_ONLY:
        if rng.random() < UNKNOWN_RATE:
            person[name] = "Unknown"
    if "Unknown" in (person["Industry"], person["Occupation"]):  # each gives the other away
        person["Industry"] = person["Occupation"] = "Unknown"
    return person


def leak_phrases(person: dict[str, str]) -> list[tuple[str, ...]]:
    """For each thing this person may let slip, the sentences that do so (an industry shows through its occupation)."""
    tables = {"Gender": GENDER_LINES, "Age": AGE_LINES, "Education Level": EDUCATION_LINES, "Life Stage": LIFE_LINES}
    pools = [table[person[name]] for name, table in tables.items() if person[name] != "Unknown"]
    if person["Occupation"] != "Unknown":
        pools.append(JOBS[person["Occupation"]].lines)
    return pools
