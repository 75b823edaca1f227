"""`ringtable bench`: the classic topology against its successors, on the machine it runs on.

What a module may use is above it.

| module      | what it holds                                                                        |
|-------------|--------------------------------------------------------------------------------------|
| `errors`    | what can go wrong                                                                    |
| `analysis`  | the figures of the published analysis, and its seven scenarios                       |
| `machine`   | where a run happened: processor, kernel, versions, commit                            |
| `probe`     | what the kernel says of a process or file: CPU time, resident memory                 |
| `samples`   | several runs of one thing as mean, spread, median; whether two of them really differ |
| `settings`  | how much is measured                                                                 |
| `session`   | one connected client: the statements that a good user of it would write              |
| `processes` | starting and ending servers                                                          |
| `subject`   | what is measured: a server, and how a client connects to it                          |
| `ways`      | the ways to ringtable: topologies, lanes, sockets                                    |
| `peers`     | what else there is: a Manager's dict, Valkey, LMDB; and memcpy                       |
| `crew`      | client processes that stand by and do the same together                              |
| `loops`     | what the clients do                                                                  |
| `timed`     | a loop in several clients at once, and what it took                                  |
| `results`   | what was measured, as values; JSON and back                                          |
| `bench`     | what all parts are given: settings, subjects, crew, progress                         |
| `scenarios` | part one: the seven scenarios of the analysis                                        |
| `scaling`   | part two: 1 to 16 clients in tight loops                                             |
| `payloads`  | part three: large values beside memcpy                                               |
| `wording`   | numbers with their units                                                             |
| `tabular`   | a titled table of text: in a terminal, as Markdown, on a page                        |
| `sections`  | the results as tables of text                                                        |
| `verdict`   | what the figures say, in sentences                                                   |
| `headline`  | the same in three numbers                                                            |
| `terminal`  | the report as tables in a terminal                                                   |
| `table`     | the report as CSV, a row for each figure                                             |
| `svg`       | the elements of a drawing                                                            |
| `charts`    | bars, curves, ranges                                                                 |
| `style`     | how the page looks                                                                   |
| `page`      | the report as one HTML file                                                          |

The package `benches` of the repository measures goals and rivals at greater length, with the same crews, loops, peers
and tables.
"""
