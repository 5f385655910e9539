"""The same things said indirectly: a reader understands them, a list of cue words mostly does not.

Each value that :mod:`datamodules.demo.people` gives away in so many words has hints here, at least as many. All are in the
first person.
"""

from __future__ import annotations

from datamodules.demo.people import AGE_LINES, EDUCATION_LINES, GENDER_LINES, JOBS, LIFE_LINES

JOB_HINTS: dict[str, tuple[str, ...]] = {
    "Nurse": (
        "I had been up and down the corridor since the morning handover.",
        "I took blood pressure all night and could use some salt.",
        "My watch hangs upside down on my chest, so I can read it with both hands full.",
        "I had changed eleven dressings before noon and still had an appetite.",
        "I fill drips and raise bed rails for others, here somebody looked after me.",
        "I still smelled of hand gel and nobody asked.",
    ),
    "Doctor": (
        "I had put three people under and woken them up again since the morning.",
        "I was on call, so I stuck to water.",
        "My signature on the slip looked like a prescription, they said.",
        "I had to give bad news twice that day, so I wanted a kind room.",
        "I had held pictures of other people's lungs against the light all day.",
        "I told the stranger beside me to have that mole seen to.",
    ),
    "Teacher": (
        "I had lost my voice by third period, so I pointed at the menu.",
        "My red pen leaked all over the napkin.",
        "I met two of my former troublemakers there, and they were polite.",
        "Our parents' evening ran late and I needed something hot.",
        "I tell thirty people to sit down all day, here somebody told me to.",
        "My long summer break starts on Friday, and this was the start of it.",
    ),
    "Student": (
        "I had an all-nighter behind me and a deadline ahead.",
        "I ate with a highlighter in my other hand.",
        "I live on toast until the loan comes in, so this was a feast.",
        "My reading list is longer than their menu.",
        "We split the bill six ways, as we do everything in our corridor.",
        "I had skipped the nine o'clock again and slept in.",
    ),
    "Software Engineer": (
        "I was woken at three because our site was down, so I was slow.",
        "My stand-up ran over, so we came late.",
        "I was still refactoring in my head while I waited.",
        "We had to roll back on a Friday, so I had earned this.",
        "I merged before I left and kept my phone face up.",
        "Our backlog is longer than the queue at the door was.",
    ),
    "Data Analyst": (
        "I counted the tables and called it a decent sample.",
        "I had been cleaning columns since nine.",
        "My outliers kept me late, the soup made up for it.",
        "I could not help it, I plotted my visits here against the weather.",
        "My regression would not converge, so I went out.",
        "I had joined tables all day, so I was glad to sit at one.",
    ),
    "Accountant": (
        "I had counted the pennies twice since eight, and they would not match.",
        "Every April I vanish, so this was my first evening out in weeks.",
        "I had closed the quarter an hour before we came.",
        "My desk is nothing but receipts, so I folded theirs with care.",
        "I write off other people's chairs all day, so I know a good one.",
        "We do the returns for half of the shops in this street.",
    ),
    "Electrician": (
        "I had been up a ladder with a tester between my teeth.",
        "We had pulled cable through three floors and I was starving.",
        "I looked up first, half of their lamps flicker.",
        "I had switched half a street off and on again before noon.",
        "My hair was full of dust and bits of copper.",
        "I still had the tester in my breast pocket.",
    ),
    "Carpenter": (
        "I ran my thumb along the table edge, somebody sanded that well.",
        "My thumb was still blue from a stroke that missed.",
        "I had hung nine doors since the morning.",
        "We had planed planks all day, and I smelled of it.",
        "My pencil stayed behind my ear all through the meal.",
        "I measure twice and order once.",
    ),
    "Shop Assistant": (
        "I fold jumpers for strangers all day, so I left my napkin in a heap.",
        "We had the summer sale on and I had not sat down since nine.",
        "I wish four hundred people a nice day, here somebody wished me one.",
        "My name badge was still on, so they called me by it.",
        "I had cashed up and pulled the shutters down ten minutes before.",
        "They kept me late because a delivery had to go on the shelves.",
    ),
    "Chef": (
        "My forearms tell you that I know a hot plate.",
        "I had sent out two hundred covers the night before, so I sat still.",
        "I had broken down a whole lamb that morning.",
        "My knives had the day off, and so did I.",
        "We were two short at the stoves all week, so I let others sweat.",
        "I carry a tasting spoon in my sleeve pocket, force of habit.",
    ),
    "Lawyer": (
        "I had been objecting since nine.",
        "The other side folded before noon, so we celebrated.",
        "I bill in units of six minutes and still lingered.",
        "My robe was in the bag under the table.",
        "The jury was out, so I had an hour.",
        "I read the small print on the menu, elsewhere I charge for that.",
    ),
    "Retired": (
        "I handed in my keys in spring and now every day is Sunday.",
        "My alarm clock is in the bin, so I came when it suited me.",
        "They gave me a gold watch and all this time.",
        "I used to rush past here at eight every morning, now I stay.",
        "My diary has nothing in it but my garden.",
        "I have worked enough for one life, so we sat until they closed.",
    ),
}
GENDER_HINTS: dict[str, tuple[str, ...]] = {
    "Female": (
        "I slipped out of my stilettos under the table.",
        "I left a red mouth on the glass.",
        "The mirror in there was just right for my mascara.",
        "I borrowed a band from the hostess and put my braid up.",
        "The hem of my frock got caught in the door.",
        "My sorority booked the long table.",
        "They put me down as Miss on the list.",
    ),
    "Male": (
        "I loosened my tie before the first plate came.",
        "My whiskers and their foam did not get along.",
        "I had a week of growth on my chin, and the napkin stuck to it.",
        "I came in the tuxedo that I had rented for the best man's speech.",
        "My aftershave was stronger than their soup.",
        "They put me down as Mister on the list.",
        "I undid my bow tie, it was that warm.",
    ),
}
AGE_HINTS: dict[str, tuple[str, ...]] = {
    "18-24": (
        "I only got the vote last year and already queue like a citizen.",
        "My braces came off this spring, so I bit right in.",
        "It was the first bill I ever paid with a card of my own.",
        "We parked with the learner plates still on my car.",
        "My parents still pay for my phone, so I was careful.",
        "I was born after the millennium and their jukebox puzzled me.",
    ),
    "25-34": (
        "I was seven at the turn of the millennium, so I knew every song.",
        "All my weekends are other people's weddings at the moment.",
        "My first gray hair turned up this week and I told the whole table.",
        "Half of my friends are getting engaged, the others move back home.",
        "I have been earning for about ten years, and it shows.",
        "I am still new enough at work to be sent out for the sandwiches.",
    ),
    "35-49": (
        "I made mix tapes of half the songs that they played.",
        "I had to hold the menu at arm's length for the first time.",
        "My grunge records are older than the waiter.",
        "My mortgage is half paid, so I treat myself.",
        "I remember the squeal of the modem, and nobody else at our table did.",
        "I am about halfway through my working life.",
    ),
    "50-64": (
        "I was six when they walked on the moon.",
        "I have to watch my cholesterol, so I only looked at the butter.",
        "I danced to these songs when they were new.",
        "A few more years and they can have my desk.",
        "I have been colouring over the gray for some time now.",
        "I bought my first records from the shop that stood here before.",
    ),
    "65+": (
        "I needed a minute on the stairs, and they gave me an arm.",
        "I had to turn my hearing aid down because of the music.",
        "I ride for nothing these days, so I came across town.",
        "I remember the trams in this street.",
        "I grew up on ration books, so I finish my plate.",
        "My new hip liked their chairs.",
    ),
}
EDUCATION_HINTS: dict[str, tuple[str, ...]] = {
    "High School": (
        "I learned everything by doing it, nobody ever handed me a scroll.",
        "I was on a payroll as soon as they let me, and that was it for books.",
        "I have no letters behind my name, and the menu did not ask for any.",
        "I had my first wages at eighteen and never sat an exam again.",
        "My brother got the place to study, I got a pay slip.",
        "I have never set foot in an auditorium, and my spelling shows it.",
    ),
    "Some College": (
        "I have two years of notes in the attic and no piece of paper to show for them.",
        "I quit halfway, and the loan is still with me.",
        "I take two evening courses and came with the reader under my arm.",
        "I switched subjects twice, and then I was gone.",
        "I packed my things before the third year and never said why.",
        "I left with half of the points and all of the debt.",
    ),
    "Bachelor": (
        "My cap flew into the fountain that day, we still talk about it.",
        "We sat in the same row for four years, and we still meet.",
        "I framed the certificate from those four years and hung it in the hall.",
        "I majored in something that I have never used since.",
        "My alma mater had won, so I was in a good mood.",
        "I carried my books across that lawn for four years and still know every bench.",
    ),
    "Postgraduate": (
        "I still dream of my viva, and woke up hungry.",
        "They had me rewrite my last chapter twice, so I know patience.",
        "I once spent a year on a footnote, so I can wait for a table.",
        "We defended in the same week, and now we meet once a year.",
        "My second degree took me to a city with food like this.",
    ),
}
LIFE_HINTS: dict[str, tuple[str, ...]] = {
    "Single": (
        "I swiped left on the way there and right on the menu.",
        "I have the whole sofa to myself at home, so a small table is fine.",
        "My cat is the only one who waits up for me.",
        "There is nobody at home to bring a box for, so I finished it.",
        "They cleared the second set of cutlery as soon as I sat down.",
        "I answer to nobody about when I come home.",
        "My side of the bed is both sides.",
    ),
    "Couple": (
        "We always swap plates halfway, we have for eleven years.",
        "My better half had picked the place.",
        "We have two sets of keys and one calendar on the fridge.",
        "We are still arguing about the colour of the sofa for our new flat.",
        "I saved half of mine for the one at home with a cold.",
        "We held hands over the bread like on the first evening.",
        "We bicker over the last bite as over the blanket.",
    ),
    "Young Family": (
        "I had a bib in one hand and a fork in the other.",
        "We were out by seven because of bedtime.",
        "Half of our rice ended up on the floor, none of it thrown by me.",
        "My sleeves had carrot puree on them before we even ordered.",
        "We have not slept through a night since spring.",
        "I can cut grapes into quarters in my sleep by now.",
    ),
    "Parents of Teens": (
        "The pickup line at the middle school made us late.",
        "I was the only one at our table without a screen.",
        "My two had emptied the fridge and were hungry again by noon.",
        "I waited outside the dance in the car and then came in for a bite.",
        "We argued about when to be back in until the plates came.",
        "I am the taxi to every match and every band, so this was my half hour off.",
    ),
    "Empty Nest": (
        "We set the table for two again and still make too much, so we went out.",
        "The bedroom upstairs is my study now, posters and all.",
        "We drove the last boxes to the campus in autumn, and it is quiet at home.",
        "I get a call on Sundays now, so I told the waiter everything.",
        "Nobody has raided our fridge since September.",
        "I still buy the big cartons of milk, and they go sour now.",
        "We have two spare rooms and nobody to tell to turn the music down.",
    ),
}
_DIRECT = (GENDER_LINES, AGE_LINES, EDUCATION_LINES, LIFE_LINES, {name: job.lines for name, job in JOBS.items()})
_INDIRECT = (GENDER_HINTS, AGE_HINTS, EDUCATION_HINTS, LIFE_HINTS, JOB_HINTS)
HINTS: dict[tuple[str, ...], tuple[str, ...]] = {
    lines: hints[value] for direct, hints in zip(_DIRECT, _INDIRECT, strict=True) for value, lines in direct.items()
}
"""The sentences of a pool of :func:`datamodules.demo.people.leak_phrases` -> what hints at the same."""
